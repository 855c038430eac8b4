"""Conversion of rows to records, and the lock that serialises the changes of one adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import UnknownAdapter, UnknownVersion
from adapters.models import Adapter, Version, VersionState
from adapters.names import public_name
from adapters.registry.schema import tables

_VERSION_FIELDS = tuple(field.name for field in fields(Version))
#: Rows that are converted between two pauses of the event loop; 20 us each.
_SLICE = 256
Record = TypeVar("Record")
_ADAPTER_FIELDS = tuple(field.name for field in fields(Adapter))


async def records(
    rows: Iterable[RowMapping], record_of: Callable[[RowMapping], Record], *, size: int = _SLICE
) -> tuple[Record, ...]:
    """Convert the rows of a long list, with a pause for the event loop after each slice of `size` rows."""
    found: list[Record] = []
    for row in rows:
        found.append(record_of(row))
        if not len(found) % size:
            await asyncio.sleep(0)
    return tuple(found)


def version_of(row: RowMapping, prefix: str = "") -> Version:
    """A row of `tables.versions` whose columns are labelled with `prefix`."""
    values = {name: row[prefix + name] for name in _VERSION_FIELDS}
    values["state"] = VersionState(values["state"])
    return Version(**values)


def adapter_of(row: RowMapping, prefix: str = "") -> Adapter:
    """A row of `tables.adapters` whose columns are labelled with `prefix`."""
    return Adapter(**{name: row[prefix + name] for name in _ADAPTER_FIELDS})


async def lock_adapter(connection: AsyncConnection, tenant: str, name: str) -> Adapter:
    """Read an adapter and block other changes of it, its alias and its versions until the commit.

    Raises: UnknownAdapter.
    """
    table = tables.adapters
    query = sa.select(table).where(table.c.tenant == tenant, table.c.name == name).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownAdapter(public_name(tenant, name))
    return adapter_of(row)


async def read_version(connection: AsyncConnection, tenant: str, adapter: str, number: int) -> Version:
    """Raises: UnknownVersion."""
    table = tables.versions
    query = sa.select(table).where(
        table.c.tenant == tenant, table.c.adapter == adapter, table.c.number == number
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownVersion(public_name(tenant, adapter), number)
    return version_of(row)
