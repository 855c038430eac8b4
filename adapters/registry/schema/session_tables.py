"""Sessions of people who signed in at an OpenID Connect provider; `tables` has the rest."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.registry.schema.tables import UtcDateTime, column, metadata

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("sha256", sa.String(64), unique=True),  # of the cookie's value
    column("account", sa.String(32)),  # what the person's usage is counted under
    column("name", sa.Text),
    column("role", sa.String(16)),
    sa.Column("tenant", sa.ForeignKey("tenants.name", ondelete="CASCADE"), index=True),
    column("read_only", sa.Boolean),
    column("settings_digest", sa.String(64)),  # the settings by which the role was given
    column("created_at", UtcDateTime),
    column("expires_at", UtcDateTime, index=True),
)
