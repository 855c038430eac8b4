"""The servers that share the registry, who adds a version, and which servers have drained one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Versions that are being added already have no owner, so the next start takes them over, as before."""
    op.add_column("versions", sa.Column("owner", sa.String(length=32), nullable=True))
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "drained",
        sa.Column("engine_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("replica", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("engine_id", "replica", name=op.f("pk_drained")),
    )
