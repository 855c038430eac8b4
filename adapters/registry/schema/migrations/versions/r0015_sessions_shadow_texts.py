"""Sessions of people who signed in; texts of shadow traffic, and the consent of tenants to keep them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add tables only: programs of revision 0008 can go on, and know no sessions and no texts."""
    _add_sessions()
    _add_shadow_texts()


def _add_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=True),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("settings_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("sha256", name=op.f("uq_sessions_sha256")),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name=op.f("fk_sessions_tenant"), ondelete="CASCADE"
        ),
    )
    op.create_index(op.f("ix_sessions_tenant"), "sessions", ["tenant"])
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])


def _add_shadow_texts() -> None:
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
