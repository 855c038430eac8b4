"""The usage tables: sums per tenant, adapter, version and hour, and sums per key, adapter and hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.models import BatchId, Usage
from adapters.registry.database import DatabasePart, insert_into, utc_now
from adapters.registry.schema import billing_tables, tables
from adapters.registry.schema.rows import records

_T, _W, _K = tables.usage, tables.usage_writers, billing_tables.key_usage
_KEY = ("tenant", "adapter", "version", "hour")
_SUMS = tuple(field.name for field in fields(Usage) if field.name not in (*_KEY, "key"))
#: Key and sums of the table of keys.
_KEYS_KEY = ("account", "tenant", "adapter", "hour")
_KEYS_SUMS = ("requests", "prompt_tokens", "cached_tokens", "generated_tokens")

_Rows = list[dict[str, Any]]

#: A writer that has sent nothing for so long is forgotten; its batches would then count again.
WRITERS_KEPT = timedelta(days=366)


class UsageStore(DatabasePart):
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
        entries = list(batch)
        if not entries:
            return True
        async with self._database.write() as connection:
            if batch_id is not None and not await _is_next(connection, batch_id):
                return False
            await _merge(connection, _T, (*_KEY, *_SUMS), _KEY, _rows(entries))
            if of_keys := _rows_of_keys(entries):
                await _merge(connection, _K, (*_KEYS_KEY, *_KEYS_SUMS), _KEYS_KEY, of_keys)
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

    async def of_keys(
        self, *, since: datetime, until: datetime | None = None, tenant: str | None = None
    ) -> tuple[Usage, ...]:
        """Usage per key, adapter and hour, as `list`; version is 0, and the sums are requests and tokens."""
        query = (
            sa.select(_K).where(_K.c.hour >= hour_of(since)).order_by(_K.c.hour, _K.c.account, _K.c.adapter)
        )
        if until is not None:
            query = query.where(_K.c.hour < until)
        if tenant is not None:
            query = query.where(_K.c.tenant == tenant)
        async with self._database.read() as connection:
            return await records((await connection.execute(query)).mappings(), _of_key)


def _of_key(row: RowMapping) -> Usage:
    sums = {name: row[name] for name in _KEYS_SUMS}
    return Usage(row["tenant"], row["adapter"], 0, row["hour"], key=row["account"], **sums)


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
    return (entry.tenant, entry.adapter, entry.version, hour_of(entry.hour), entry.key)


def add_up_usage(total: Usage | None, entry: Usage) -> Usage:
    """The sum of two entries with the same `key_of`, at the start of their hour; None counts nothing."""
    old = total or Usage(entry.tenant, entry.adapter, entry.version, hour_of(entry.hour), key=entry.key)
    added = {name: getattr(old, name) + getattr(entry, name) for name in _SUMS}
    return Usage(old.tenant, old.adapter, old.version, old.hour, key=old.key, **added)


async def _merge(
    connection: AsyncConnection, table: sa.Table, names: Sequence[str], key: Sequence[str], rows: _Rows
) -> None:
    """Add rows to those with the same key."""
    insert = insert_into(connection.dialect, table)
    merged = insert.on_conflict_do_update(
        index_elements=[table.c[name] for name in key],
        set_={name: table.c[name] + insert.excluded[name] for name in names if name not in key},
    )
    await connection.execute(merged, rows)


def _rows(entries: Iterable[Usage]) -> _Rows:
    """The usage of all keys together; one row per key of the table, as one statement may touch it only once."""
    return _summed(((entry, (entry.tenant, entry.adapter, entry.version)) for entry in entries), _KEY, _SUMS)


def _rows_of_keys(entries: Iterable[Usage]) -> _Rows:
    """The usage per key, of what a key was used for."""
    with_key = (
        entry
        for entry in entries
        if entry.key and entry.requests + entry.prompt_tokens + entry.generated_tokens
    )
    return _summed(
        ((entry, (entry.key, entry.tenant, entry.adapter)) for entry in with_key), _KEYS_KEY, _KEYS_SUMS
    )


def _summed(
    entries: Iterable[tuple[Usage, tuple[object, ...]]], key: Sequence[str], names: Sequence[str]
) -> _Rows:
    """One row per key and hour; each entry comes with its key, but for the hour."""
    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for entry, values in entries:
        at = (*values, hour_of(entry.hour))
        row = rows.setdefault(at, dict(zip(key, at, strict=True)) | dict.fromkeys(names, 0))
        for name in names:
            row[name] += getattr(entry, name)
    return list(rows.values())
