"""The usage table: sums per tenant, adapter, version and hour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime

import sqlalchemy as sa

from adapters.models import Usage
from adapters.registry.database import DatabasePart, insert_into
from adapters.registry.schema import tables

_T = tables.usage
_KEY = ("tenant", "adapter", "version", "hour")
_SUMS = tuple(field.name for field in fields(Usage) if field.name not in _KEY)


class UsageLedger(DatabasePart):
    """Adds and reads usage. It writes no audit rows, because nobody decides these changes."""

    async def add(self, batch: Iterable[Usage]) -> None:
        """Add a batch in one transaction; entries of the same hour are summed."""
        rows = [asdict(entry) for entry in _sum_by_hour(batch)]
        if not rows:
            return
        insert = insert_into(self._database.engine.dialect, _T)
        merged = insert.on_conflict_do_update(
            index_elements=[_T.c[name] for name in _KEY],
            set_={name: _T.c[name] + insert.excluded[name] for name in _SUMS},
        )
        async with self._database.write() as connection:
            await connection.execute(merged, rows)

    async def list(
        self, *, since: datetime, until: datetime | None = None, tenant: str | None = None
    ) -> tuple[Usage, ...]:
        """Usage per hour from `since` (including its hour) to `until` (exclusive), oldest first."""
        query = (
            sa.select(_T).where(_T.c.hour >= hour_of(since)).order_by(_T.c.hour, *(_T.c[n] for n in _KEY[:3]))
        )
        if until is not None:
            query = query.where(_T.c.hour < until)
        if tenant is not None:
            query = query.where(_T.c.tenant == tenant)
        async with self._database.read() as connection:
            return tuple(Usage(**row) for row in (await connection.execute(query)).mappings())

    async def tokens_since(self, since: datetime) -> dict[str, int]:
        """Prompt plus generated tokens per tenant since the hour of `since`, for the token budgets."""
        total = sa.func.sum(_T.c.prompt_tokens + _T.c.generated_tokens)
        query = sa.select(_T.c.tenant, total).where(_T.c.hour >= hour_of(since)).group_by(_T.c.tenant)
        async with self._database.read() as connection:
            return {tenant: int(tokens) for tenant, tokens in await connection.execute(query)}


def hour_of(moment: datetime) -> datetime:
    """The start of the hour, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _sum_by_hour(batch: Iterable[Usage]) -> list[Usage]:
    """One entry per key, as one statement may touch a row only once."""
    sums: dict[tuple[object, ...], Usage] = {}
    for entry in batch:
        key = (entry.tenant, entry.adapter, entry.version, hour_of(entry.hour))
        old = sums.get(key, Usage(entry.tenant, entry.adapter, entry.version, hour_of(entry.hour)))
        added = {name: getattr(old, name) + getattr(entry, name) for name in _SUMS}
        sums[key] = Usage(old.tenant, old.adapter, old.version, old.hour, **added)
    return list(sums.values())
