"""The tables. A change here needs a migration; a test compares both on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


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


def _column(name: str, kind: Any, *args: Any, **kwargs: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, nullable=False, **kwargs)


counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    _column("value", sa.BigInteger),
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    _column("weight", sa.Float),
    _column("kv_guarantee", sa.Float),
    _column("kv_limit", sa.Float),
    sa.Column("max_concurrency", sa.Integer),
    sa.Column("rpm", sa.Integer),
    sa.Column("tpm", sa.BigInteger),
    sa.Column("token_budget", sa.BigInteger),
    _column("budget_period", sa.String(8)),
    _column("sampling_defaults", JSON),
    _column("limits", JSON),
    _column("created_at", UtcDateTime),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.name", ondelete="CASCADE"), index=True),
    _column("role", sa.String(16)),
    _column("prefix", sa.String(16)),
    _column("sha256", sa.String(64), unique=True),
    sa.Column("models", JSON),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    _column("created_at", UtcDateTime),
    _column("note", sa.Text),
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    _column("public_name", sa.String(97), unique=True),
    _column("next_number", sa.Integer),
    _column("created_at", UtcDateTime),
    sa.Column("removed_at", UtcDateTime),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _column("engine_id", sa.BigInteger, unique=True),
    _column("state", sa.String(16), index=True),
    _column("source", sa.Text),
    _column("created_at", UtcDateTime),
    sa.Column("digest", sa.String(64), index=True),
    sa.Column("rank", sa.Integer),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("error", sa.Text),
    _column("pinned", sa.Boolean),
    _column("sampling_defaults", JSON),
    sa.Column("training", JSON),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    _column("generation", sa.Integer),
    _column("targets", JSON),  # [[number, weight], …]
    _column("updated_at", UtcDateTime),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

alias_changes = sa.Table(
    "alias_changes",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    _column("targets", JSON),
    _column("at", UtcDateTime),
    _column("by", sa.Text),
    sa.Column("restored", sa.Integer),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    _column("at", UtcDateTime),
    _column("actor", sa.Text),
    sa.Column("key_id", sa.String(32)),
    _column("action", sa.String(32)),
    _column("subject", sa.Text, index=True),
    _column("details", JSON),
    sqlite_autoincrement=True,
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hour", UtcDateTime, primary_key=True),
    _column("requests", sa.BigInteger),
    _column("prompt_tokens", sa.BigInteger),
    _column("cached_tokens", sa.BigInteger),
    _column("generated_tokens", sa.BigInteger),
    _column("kv_block_seconds", sa.Float),
    _column("queue_s", sa.Float),
    _column("run_s", sa.Float),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    _column("adapter", sa.String(64)),
    _column("version", sa.Integer),
    _column("rating", sa.String(8)),
    _column("reason", sa.String(64)),
    _column("comment", sa.Text),
    sa.Column("messages", JSON),
    _column("at", UtcDateTime, index=True),
)
