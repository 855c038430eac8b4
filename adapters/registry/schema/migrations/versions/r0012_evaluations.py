"""Evaluations of versions, the condition of an adapter's promotions, and shadow traffic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Make the tables and the columns; no adapter that exists has a condition or a shadow."""
    op.add_column("adapters", sa.Column("condition", sa.Text(), nullable=True))
    op.add_column("adapters", sa.Column("shadow", _JSON, nullable=True))
    sums = ("count", "served", "served_squares", "shadow", "shadow_squares", "difference_squares")
    op.create_table(
        "shadow_sums",
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("against", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.String(length=24), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in sums),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter"],
            ["adapters.tenant", "adapters.name"],
            name=op.f("fk_shadow_sums_tenant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "tenant", "adapter", "version", "against", "metric", name=op.f("pk_shadow_sums")
        ),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("options", _JSON, nullable=False),
        sa.Column("caller", sa.String(length=32), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=True),
        sa.Column("figures", _JSON, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter", "version"],
            ["versions.tenant", "versions.adapter", "versions.number"],
            name=op.f("fk_evaluations_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_state"), "evaluations", ["state"])
    op.create_index("ix_evaluations_version", "evaluations", ["tenant", "adapter", "version"])
    op.create_table(
        "evaluation_turns",
        sa.Column("evaluation", sa.String(length=32), nullable=False),
        sa.Column("turn", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("facts", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation"],
            ["evaluations.id"],
            name=op.f("fk_evaluation_turns_evaluation"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation", "turn", name=op.f("pk_evaluation_turns")),
    )
