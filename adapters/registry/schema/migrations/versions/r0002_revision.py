"""A counter for the registry's revision.

The newest audit id does not do: PostgreSQL gives ids out before it commits, so a change could become visible
under an id that is older than one already seen, and whoever caches would never learn of it.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Start the counter where the audit stands."""
    op.execute("INSERT INTO counters (name, value) SELECT 'revision', coalesce(max(id), 0) FROM audit")
