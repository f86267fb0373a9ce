"""When the state was put back from a back-up of an earlier time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One more table."""
    op.create_table(
        "restores",
        sa.Column("restored_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("backup_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("restored_at", name=op.f("pk_restores")),
    )
