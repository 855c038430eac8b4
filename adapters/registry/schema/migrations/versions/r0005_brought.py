"""What a version's folder has beside the weights, so that the server can say what it does not use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the column; nothing is known of the versions that exist."""
    op.add_column("versions", sa.Column("brought", _JSON, nullable=True))
