"""The usage table: sums per tenant, adapter, version and hour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.models import BatchId, Usage
from adapters.registry.database import DatabasePart, insert_into, utc_now
from adapters.registry.schema import tables
from adapters.registry.schema.rows import records

_T, _W = tables.usage, tables.usage_writers
_KEY = ("tenant", "adapter", "version", "hour")
_SUMS = tuple(field.name for field in fields(Usage) if field.name not in _KEY)

#: A writer that has sent nothing for so long is forgotten; its batches would then count again.
WRITERS_KEPT = timedelta(days=366)


class UsageLedger(DatabasePart):
    """Adds and reads usage. It writes no audit rows, because nobody decides these changes."""

    async def add(self, batch: Iterable[Usage], batch_id: BatchId | None = None) -> bool:
        """Add a batch in one transaction; entries of the same hour are summed.

        Args:
            batch: what to add.
            batch_id: identifies the batch where it may be sent twice. A writer sends its batches in order, and the
                next one only when it knows that the last one was added.

        Returns:
            False if the batch was added before; then nothing is changed.
        """
        rows = [asdict(entry) for entry in _sum_by_hour(batch)]
        if not rows:
            return True
        insert = insert_into(self._database.engine.dialect, _T)
        merged = insert.on_conflict_do_update(
            index_elements=[_T.c[name] for name in _KEY],
            set_={name: _T.c[name] + insert.excluded[name] for name in _SUMS},
        )
        async with self._database.write() as connection:
            if batch_id is not None and not await _is_next(connection, batch_id):
                return False
            await connection.execute(merged, rows)
        return True

    async def forget_writers(self) -> None:
        """Delete the writers that have sent nothing for WRITERS_KEPT."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_W).where(_W.c.at < utc_now() - WRITERS_KEPT))

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
            return await records((await connection.execute(query)).mappings(), lambda row: Usage(**row))

    async def tokens_since(self, since: datetime) -> dict[str, int]:
        """Prompt plus generated tokens per tenant since the hour of `since`, for the token budgets."""
        total = sa.func.sum(_T.c.prompt_tokens + _T.c.generated_tokens)
        query = sa.select(_T.c.tenant, total).where(_T.c.hour >= hour_of(since)).group_by(_T.c.tenant)
        async with self._database.read() as connection:
            return {tenant: int(tokens) for tenant, tokens in await connection.execute(query)}


def hour_of(moment: datetime) -> datetime:
    """The start of the hour, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


async def _is_next(connection: AsyncConnection, batch_id: BatchId) -> bool:
    """Note the batch as its writer's last one; False: it was noted before."""
    row = {"writer": batch_id.writer, "sequence": batch_id.sequence, "at": utc_now()}
    insert = insert_into(connection.dialect, _W).values(**row)
    noted = insert.on_conflict_do_update(
        index_elements=[_W.c.writer],
        set_={"sequence": insert.excluded.sequence, "at": insert.excluded.at},
        where=_W.c.sequence < insert.excluded.sequence,
    ).returning(_W.c.sequence)
    return (await connection.execute(noted)).scalar_one_or_none() is not None


def key_of(entry: Usage) -> tuple[object, ...]:
    """What entries that are summed have in common: tenant, adapter, version and hour."""
    return (entry.tenant, entry.adapter, entry.version, hour_of(entry.hour))


def add_up(total: Usage | None, entry: Usage) -> Usage:
    """The sum of two entries with the same key, at the start of their hour; None counts nothing."""
    old = total or Usage(entry.tenant, entry.adapter, entry.version, hour_of(entry.hour))
    added = {name: getattr(old, name) + getattr(entry, name) for name in _SUMS}
    return Usage(old.tenant, old.adapter, old.version, old.hour, **added)


def _sum_by_hour(batch: Iterable[Usage]) -> list[Usage]:
    """One entry per key, as one statement may touch a row only once."""
    sums: dict[tuple[object, ...], Usage] = {}
    for entry in batch:
        sums[key_of(entry)] = add_up(sums.get(key_of(entry)), entry)
    return list(sums.values())
