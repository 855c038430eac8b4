"""Evaluations of versions, and sums of shadow traffic; `tables` has the rest."""

from __future__ import annotations

import sqlalchemy as sa

from adapters.registry.schema.tables import JSON, UtcDateTime, column, metadata

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("tenant", sa.String(32)),
    column("adapter", sa.String(64)),
    column("version", sa.Integer),
    column("data_digest", sa.String(64)),
    column("options", JSON),
    column("caller", sa.String(32)),  # the tenant whose key asked for it; "" for an operator
    column("by", sa.Text),
    column("state", sa.String(16), index=True),
    sa.Column("turns", sa.Integer),
    sa.Column("figures", JSON),
    sa.Column("error", sa.Text),
    column("owner", sa.String(32)),  # the server that runs it
    column("created_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.ForeignKeyConstraint(
        ["tenant", "adapter", "version"],
        ["versions.tenant", "versions.adapter", "versions.number"],
        name="fk_evaluations_version",
        ondelete="CASCADE",
    ),
    sa.Index("ix_evaluations_version", "tenant", "adapter", "version"),
)

evaluation_turns = sa.Table(
    "evaluation_turns",
    metadata,
    sa.Column("evaluation", sa.ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),
    column("facts", JSON),
)

shadow_sums = sa.Table(
    "shadow_sums",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("against", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metric", sa.String(24), primary_key=True),
    *(column(name, sa.Float) for name in ("count", "served", "served_squares")),
    *(column(name, sa.Float) for name in ("shadow", "shadow_squares", "difference_squares")),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

#: Adapters whose tenant lets texts of shadow traffic be kept; they go with this row.
shadow_consents = sa.Table(
    "shadow_consents",
    metadata,
    sa.Column("tenant", sa.String(32), primary_key=True),
    sa.Column("adapter", sa.String(64), primary_key=True),
    column("by", sa.Text),
    column("at", UtcDateTime),
    sa.ForeignKeyConstraint(["tenant", "adapter"], ["adapters.tenant", "adapters.name"], ondelete="CASCADE"),
)

shadow_pairs = sa.Table(
    "shadow_pairs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    column("tenant", sa.String(32)),
    column("adapter", sa.String(64)),
    column("version", sa.Integer),
    column("against", sa.Integer),
    column("at", UtcDateTime),
    *(column(name, sa.Text) for name in ("prompt", "served", "shadow")),
    sa.ForeignKeyConstraint(
        ["tenant", "adapter"], ["shadow_consents.tenant", "shadow_consents.adapter"], ondelete="CASCADE"
    ),
    sa.Index("ix_shadow_pairs_adapter", "tenant", "adapter", "at"),
)
