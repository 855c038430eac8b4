"""The tables that servers which share the registry use for each other; `tables` has the rest."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.registry.schema.tables import BIG_ID, JSON, UtcDateTime, column, metadata

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("url", sa.Text),
    column("version", sa.String(32)),
    column("seen_at", UtcDateTime),
    column("serves", sa.Boolean, server_default=sa.false()),  # its engine takes requests
)

drained = sa.Table(
    "drained",
    metadata,
    sa.Column("engine_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("replica", sa.String(32), primary_key=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("replica", sa.String(32), primary_key=True),
    column("held", sa.BigInteger),
)

lease_uses = sa.Table(
    "lease_uses",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True, autoincrement=False),
    column("amount", sa.BigInteger),
)

lease_exchanges = sa.Table(
    "lease_exchanges",
    metadata,
    sa.Column("replica", sa.String(32), primary_key=True),
    column("sequence", sa.BigInteger),
    column("answer", JSON),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),  # of the alias
    sa.Column("kind", sa.String(24), primary_key=True),
    sa.Column("minute", UtcDateTime, primary_key=True),
    column("count", sa.BigInteger),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("caller", sa.String(32), primary_key=True),  # the caller's tenant; "" for an operator
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("tenant", sa.String(32)),  # of the version; null for the base model
    sa.Column("adapter", sa.String(64)),
    sa.Column("version", sa.Integer),
    column("at", UtcDateTime, index=True),
)

proofs = sa.Table(
    "proofs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # of one promotion
    sa.Column("replica", sa.String(32), primary_key=True, index=True),  # which is asked
    column("tenant", sa.String(32)),
    column("adapter", sa.String(64)),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    column("asked_at", UtcDateTime),
    sa.Column("passed", sa.Boolean),  # null: not answered yet
    column("reason", sa.Text),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("tenant", sa.String(32), index=True),
    column("changed_at", UtcDateTime),
    sa.Column("used_by", sa.String(32)),  # the server that adds a version from it
)

upload_pieces = sa.Table(
    "upload_pieces",
    metadata,
    sa.Column("upload", sa.String(32), primary_key=True),
    sa.Column("offset_bytes", sa.BigInteger, primary_key=True, autoincrement=False),
    column("size_bytes", sa.BigInteger),
    column("name", sa.String(32)),  # in the depot
)

wrong_keys = sa.Table(
    "wrong_keys",
    metadata,
    sa.Column("address", sa.String(64), primary_key=True),
    column("failures", sa.Float),  # at `failed_at_s`, by the database's clock
    column("failed_at_s", sa.Float),
    column("reported_by", JSON),  # server -> when it last saw one, in seconds
)

failures = sa.Table(
    "failures",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True),
    column("replica", sa.String(32)),
    column("at", UtcDateTime),
    column("request_id", sa.String(128)),
    column("tenant", sa.String(32), index=True),  # "" for operators and wrong keys
    column("key_prefix", sa.String(32)),
    column("path", sa.String(128)),
    column("model", sa.String(256)),
    column("status", sa.Integer),
    column("code", sa.String(64)),
    column("cause", sa.String(16)),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    column("value", sa.LargeBinary),
)
