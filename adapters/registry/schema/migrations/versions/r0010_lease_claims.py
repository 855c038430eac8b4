"""Servers tell what they hold of leases, so that one that was thought dead gets back what still runs on it."""

from __future__ import annotations

from alembic import op

from adapters.registry.schema.lease_functions import CREATE_FUNCTIONS

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """On PostgreSQL, replace the functions of leases; servers that do not tell go on as before."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in CREATE_FUNCTIONS:
            op.execute(statement)
