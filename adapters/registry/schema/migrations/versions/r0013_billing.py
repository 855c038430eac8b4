"""Prices, budgets in money, limits and usage of keys, and webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from adapters.registry.schema.lease_functions import CREATE_FUNCTIONS

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns and tables only: programs of revision 0008 can go on, and count nothing per key."""
    op.add_column("tenants", sa.Column("money_budget", sa.BigInteger(), nullable=True))
    op.add_column("keys", sa.Column("limits", _JSON, nullable=True))
    op.add_column("keys", sa.Column("account", sa.String(length=32), nullable=True))
    op.create_table(
        "prices",
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("valid_from", _TIME, nullable=False),
        sa.Column("prompt_micros", sa.BigInteger(), nullable=True),
        sa.Column("cached_micros", sa.BigInteger(), nullable=True),
        sa.Column("generated_micros", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "adapter", "valid_from", name=op.f("pk_prices")),
    )
    op.create_table(
        "key_usage",
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("hour", _TIME, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("generated_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "tenant", "adapter", "hour", name=op.f("pk_key_usage")),
    )
    op.create_table(
        "budget_alerts",
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("budget", sa.String(length=16), nullable=False),
        sa.Column("period_start", _TIME, nullable=False),
        sa.Column("allowed", sa.String(length=32), nullable=False),
        sa.Column("percent", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint(
            "owner", "budget", "period_start", "allowed", "percent", name=op.f("pk_budget_alerts")
        ),
    )
    _webhooks()
    if op.get_bind().dialect.name == "postgresql":
        for statement in CREATE_FUNCTIONS:
            op.execute(statement)


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=False),
        sa.Column("events", _JSON, nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("webhook", sa.String(length=32), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", _TIME, nullable=True),
        sa.Column("sent_at", _TIME, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_messages")),
        sa.ForeignKeyConstraint(
            ["webhook"], ["webhooks.id"], name=op.f("fk_webhook_messages_webhook"), ondelete="CASCADE"
        ),
    )
    op.create_index(op.f("ix_webhook_messages_webhook"), "webhook_messages", ["webhook"])
    op.create_index(op.f("ix_webhook_messages_next_attempt_at"), "webhook_messages", ["next_attempt_at"])
