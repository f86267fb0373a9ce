"""From which share of a fleet's limit on operators are told.

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
