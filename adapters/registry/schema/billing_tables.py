"""Prices, usage per key, and webhooks with what waits to be sent; `tables` has the rest."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.registry.schema.tables import JSON, UtcDateTime, column, metadata

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),  # "" for everybody
    sa.Column("adapter", sa.String(64), primary_key=True),  # "" for all models of the tenant
    sa.Column("valid_from", UtcDateTime, primary_key=True),
    sa.Column("prompt_micros", sa.BigInteger),  # the three are null where a price ends
    sa.Column("cached_micros", sa.BigInteger),
    sa.Column("generated_micros", sa.BigInteger),
)

key_usage = sa.Table(
    "key_usage",
    metadata,
    sa.Column("account", sa.String(32), primary_key=True),  # a key's id; of a rotated key the first one's
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("hour", UtcDateTime, primary_key=True),
    column("requests", sa.BigInteger),
    column("prompt_tokens", sa.BigInteger),
    column("cached_tokens", sa.BigInteger),
    column("generated_tokens", sa.BigInteger),
)

budget_alerts = sa.Table(
    "budget_alerts",
    metadata,
    sa.Column("owner", sa.String(40), primary_key=True),  # a tenant's name, or "key:" and an account
    sa.Column("budget", sa.String(16), primary_key=True),
    sa.Column("period_start", UtcDateTime, primary_key=True),
    sa.Column("allowed", sa.String(32), primary_key=True),  # a changed budget is told of anew
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    column("at", UtcDateTime),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("url", sa.Text),
    column("secret", sa.String(128)),  # signing needs it, so it cannot be a hash
    column("events", JSON),
    sa.Column("tenant", sa.String(32)),  # only events of this tenant; null: all
    column("created_at", UtcDateTime),
)

webhook_messages = sa.Table(
    "webhook_messages",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("webhook", sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True),
    column("event", sa.String(32)),
    column("payload", sa.Text),  # the body, as it is signed and sent
    column("created_at", UtcDateTime),
    column("attempts", sa.Integer),
    sa.Column("next_attempt_at", UtcDateTime, index=True),  # null: sent, or given up
    sa.Column("sent_at", UtcDateTime),
    column("last_error", sa.Text),
)
