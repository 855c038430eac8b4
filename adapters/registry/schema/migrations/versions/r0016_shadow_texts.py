"""Texts of shadow traffic, and the consent of tenants to keep them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add tables only; no adapter that exists has texts."""
    op.create_table(
        "shadow_consents",
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter"],
            ["adapters.tenant", "adapters.name"],
            name=op.f("fk_shadow_consents_tenant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "adapter", name=op.f("pk_shadow_consents")),
    )
    op.create_table(
        "shadow_pairs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("against", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("served", sa.Text(), nullable=False),
        sa.Column("shadow", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter"],
            ["shadow_consents.tenant", "shadow_consents.adapter"],
            name=op.f("fk_shadow_pairs_tenant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_pairs")),
    )
    op.create_index("ix_shadow_pairs_adapter", "shadow_pairs", ["tenant", "adapter", "at"])
