"""The tables. A change here needs a migration; a test compares both on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from adapters.billing.money import from_micros, to_micros


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime with time zone, stored in UTC; SQLite drops the zone, so reading adds it again."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class MoneyInMicros(TypeDecorator[Decimal]):
    """An amount of money, stored as a whole number of 1e-6 of the currency."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else from_micros(value)


JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER increments automatically there

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def column(name: str, kind: Any, *args: Any, **kwargs: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, nullable=False, **kwargs)


counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    column("value", sa.BigInteger),
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    column("weight", sa.Float),
    column("kv_guarantee", sa.Float),
    column("kv_limit", sa.Float),
    sa.Column("max_concurrency", sa.Integer),
    sa.Column("rpm", sa.Integer),
    sa.Column("tpm", sa.BigInteger),
    sa.Column("token_budget", sa.BigInteger),
    sa.Column("money_budget", MoneyInMicros),
    column("budget_period", sa.String(8)),
    column("sampling_defaults", JSON),
    column("limits", JSON),
    sa.Column("records", JSON),
    column("created_at", UtcDateTime),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.name", ondelete="CASCADE"), index=True),
    column("role", sa.String(16)),
    column("prefix", sa.String(16)),
    column("sha256", sa.String(64), unique=True),
    sa.Column("models", JSON),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    column("created_at", UtcDateTime),
    column("note", sa.Text),
    sa.Column("limits", JSON),  # null: none of its own
    sa.Column("account", sa.String(32)),  # what its usage is counted under; null: its id
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    column("public_name", sa.String(97), unique=True),
    column("next_number", sa.Integer),
    column("created_at", UtcDateTime),
    sa.Column("removed_at", UtcDateTime),
    sa.Column("condition", sa.Text),  # without which no version is promoted
    sa.Column("shadow", JSON),  # the version that gets copies of requests, and the share
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    column("engine_id", sa.BigInteger, unique=True),
    column("state", sa.String(16), index=True),
    column("source", sa.Text),
    column("created_at", UtcDateTime),
    sa.Column("digest", sa.String(64), index=True),
    sa.Column("rank", sa.Integer),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("error", sa.Text),
    column("pinned", sa.Boolean),
    column("sampling_defaults", JSON),
    sa.Column("training", JSON),
    sa.Column("brought", JSON),
    sa.Column("owner", sa.String(32)),  # the server that adds the version
    sa.Column("recipe", JSON),  # what a blend was made of
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    column("generation", sa.Integer),
    column("targets", JSON),  # [[number, weight], …]
    column("updated_at", UtcDateTime),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

alias_changes = sa.Table(
    "alias_changes",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    column("targets", JSON),
    column("at", UtcDateTime),
    column("by", sa.Text),
    sa.Column("restored", sa.Integer),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    column("at", UtcDateTime),
    column("actor", sa.Text),
    sa.Column("key_id", sa.String(32)),
    column("action", sa.String(32)),
    column("subject", sa.Text, index=True),
    column("details", JSON),
    sqlite_autoincrement=True,
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hour", UtcDateTime, primary_key=True),
    column("requests", sa.BigInteger),
    column("prompt_tokens", sa.BigInteger),
    column("cached_tokens", sa.BigInteger),
    column("generated_tokens", sa.BigInteger),
    column("kv_block_seconds", sa.Float),
    column("queue_s", sa.Float),
    column("run_s", sa.Float),
)

usage_writers = sa.Table(
    "usage_writers",
    metadata,
    sa.Column("writer", sa.String(32), primary_key=True),
    column("sequence", sa.BigInteger),  # of the writer's last batch in `usage`
    column("at", UtcDateTime),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    column("adapter", sa.String(64)),
    column("version", sa.Integer),
    column("rating", sa.String(8)),
    column("reason", sa.String(64)),
    column("comment", sa.Text),
    sa.Column("messages", JSON),
    column("at", UtcDateTime, index=True),
)
