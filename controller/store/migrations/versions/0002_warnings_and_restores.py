"""From which share of a fleet's limit on operators are told; when the state was put back from a back-up.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("limits", sa.Column("warn_at", sa.Double(), nullable=True))
    op.create_table(
        "restores",
        sa.Column("restored_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("backup_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("restored_at", name=op.f("pk_restores")),
    )
