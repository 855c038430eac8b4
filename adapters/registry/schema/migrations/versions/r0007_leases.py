"""Leases of rates, budgets and concurrency, which servers on one PostgreSQL hold parts of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.registry.schema.lease_functions import CREATE_FUNCTIONS

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and on PostgreSQL the functions that change them."""
    op.create_table(
        "leases",
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("replica", sa.String(length=32), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "replica", name=op.f("pk_leases")),
    )
    op.create_table(
        "lease_uses",
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "bucket", name=op.f("pk_lease_uses")),
    )
    op.create_table(
        "lease_exchanges",
        sa.Column("replica", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("replica", name=op.f("pk_lease_exchanges")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE lease_exchanges ALTER COLUMN answer TYPE jsonb USING answer::jsonb")
        for statement in CREATE_FUNCTIONS:
            op.execute(statement)
