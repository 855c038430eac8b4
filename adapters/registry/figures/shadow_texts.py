"""Texts of shadow traffic, of adapters whose tenant consents: requests to which two versions answered differently.

They are bounded in number and age. The consent is a row that the texts refer to, so none can outlive it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from adapters.errors import UnknownAdapter
from adapters.models import Actor
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import evaluation_tables
from adapters.registry.schema.rows import lock_adapter

_C, _P = evaluation_tables.shadow_consents, evaluation_tables.shadow_pairs
#: Texts of one adapter that are kept, the newest ones, and for how long.
KEPT_PER_ADAPTER = 100
KEPT_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Consent:
    """Who has let the texts of an adapter be kept, and when."""

    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """A request, the answer that was served and the shadow's, each as far as it is kept."""

    version: int
    against: int
    at: datetime
    prompt: str
    served: str
    shadow: str


class ShadowTexts(DatabasePart):
    """The registry's texts of shadow traffic."""

    async def consent(self, tenant: str, adapter: str, *, by: Actor) -> None:
        """Let texts of this adapter be kept from now on; nothing changes if they are. Raises: UnknownAdapter."""
        name = f"{tenant}-{adapter}"
        async with self._database.change(by, "adapter.shadow_texts", name, {"kept": True}) as connection:
            if (await lock_adapter(connection, tenant, adapter)).removed_at is not None:
                raise UnknownAdapter(name)
            if not (await connection.execute(sa.select(_C.c.at).where(*_of(_C, tenant, adapter)))).first():
                row = {"tenant": tenant, "adapter": adapter, "by": by.name, "at": utc_now()}
                await connection.execute(sa.insert(_C).values(**row))

    async def withdraw(self, tenant: str, adapter: str, *, by: Actor) -> None:
        """Keep no more texts, and remove those that are kept; nothing happens without a consent."""
        name = f"{tenant}-{adapter}"
        async with self._database.change(by, "adapter.shadow_texts", name, {"kept": False}) as connection:
            await connection.execute(sa.delete(_P).where(*_of(_P, tenant, adapter)))
            await connection.execute(sa.delete(_C).where(*_of(_C, tenant, adapter)))

    async def consented(self, tenant: str, adapter: str) -> Consent | None:
        """The consent, None without one."""
        query = sa.select(_C.c.by, _C.c.at).where(*_of(_C, tenant, adapter))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Consent(row.by, row.at)

    async def keep(self, tenant: str, adapter: str, pair: ShadowPair) -> bool:
        """Store texts, and remove the oldest above the limit; False, and nothing is stored, without a consent."""
        row = {
            name: getattr(pair, name) for name in ("version", "against", "at", "prompt", "served", "shadow")
        }
        row |= {"id": secrets.token_hex(16), "tenant": tenant, "adapter": adapter}
        newest = sa.select(_P.c.id).where(*_of(_P, tenant, adapter)).order_by(_P.c.at.desc(), _P.c.id)
        try:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(_P).values(**row))
                extra = (await connection.execute(newest.offset(KEPT_PER_ADAPTER))).scalars().all()
                await connection.execute(sa.delete(_P).where(_P.c.id.in_(extra)))
        except IntegrityError:  # the consent was withdrawn since it was looked up
            return False
        return True

    async def list(self, tenant: str, adapter: str, *, limit: int) -> tuple[ShadowPair, ...]:
        """The texts that are kept, the newest first."""
        columns = [_P.c[name] for name in ("version", "against", "at", "prompt", "served", "shadow")]
        young = _P.c.at > utc_now() - KEPT_FOR
        query = sa.select(*columns).where(*_of(_P, tenant, adapter), young).order_by(_P.c.at.desc(), _P.c.id)
        async with self._database.read() as connection:
            return tuple(ShadowPair(*row) for row in await connection.execute(query.limit(limit)))

    async def forget(self) -> None:
        """Remove the texts that are too old."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_P).where(_P.c.at <= utc_now() - KEPT_FOR))


def _of(table: sa.Table, tenant: str, adapter: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.tenant == tenant, table.c.adapter == adapter
