"""The adapters in the database: listing, look-up for routing, and removal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from adapters.errors import UnknownAdapter
from adapters.models import Actor, Adapter, AdapterView, Alias, Version, VersionState
from adapters.names import public_name
from adapters.registry.aliases import read_alias, targets_of, write_alias
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import evaluation_tables, tables
from adapters.registry.schema.rows import adapter_of, lock_adapter, records, version_of
from adapters.registry.state_machine import ENDED, UNFINISHED

_A, _L, _V = tables.adapters, tables.aliases, tables.versions
_C = evaluation_tables.shadow_consents


class Adapters(DatabasePart):
    """The registry's adapters."""

    async def get(self, tenant: str, name: str) -> AdapterView:
        """One adapter with all its versions, including retired and failed ones. Raises: UnknownAdapter."""
        query = _view().where(_A.c.tenant == tenant, _A.c.name == name)
        views = await self._views(query)
        if not views:
            raise UnknownAdapter(public_name(tenant, name))
        return views[0]

    async def list(self, tenant: str | None = None, *, ended: bool = False) -> tuple[AdapterView, ...]:
        """All adapters, or one tenant's, by name, in one query; `ended` includes retired, failed and removed."""
        query = _view(() if ended else ENDED)
        if not ended:
            query = query.where(_A.c.removed_at.is_(None))
        if tenant is not None:
            query = query.where(_A.c.tenant == tenant)
        return await self._views(query)

    async def resolve(self, tenant: str, model: str) -> AdapterView:
        """The tenant's adapter with the public name `model` (without @version), and only its versions that serve.

        Raises: UnknownAdapter: the same for another tenant's name as for a name that does not exist.
        """
        query = _view(ENDED | UNFINISHED | {VersionState.DRAINING})
        query = query.where(_A.c.public_name == model, _A.c.tenant == tenant, _A.c.removed_at.is_(None))
        views = await self._views(query)
        if not views:
            raise UnknownAdapter(model)
        return views[0]

    async def set_condition(self, tenant: str, name: str, condition: str | None, *, by: Actor) -> Adapter:
        """Set the condition without which no version gets traffic; None: there is none. Raises: UnknownAdapter."""
        details = {"if": condition}
        async with self._database.change(
            by, "adapter.condition", public_name(tenant, name), details
        ) as connection:
            adapter = await lock_adapter(connection, tenant, name)
            if adapter.removed_at is not None:
                raise UnknownAdapter(adapter.public_name)
            mine = sa.and_(_A.c.tenant == tenant, _A.c.name == name)
            await connection.execute(sa.update(_A).where(mine).values(condition=condition))
            return replace(adapter, condition=condition)

    async def begin_removal(self, tenant: str, name: str, *, by: Actor) -> tuple[Version, ...]:
        """Take the adapter out of service; returns its versions, which now drain.

        Versions that are being fetched fail; texts of its shadow traffic are deleted.
        Raises: UnknownAdapter: it does not exist or is removed already.
        """
        mine = sa.and_(_V.c.tenant == tenant, _V.c.adapter == name)
        async with self._database.change(by, "adapter.remove", public_name(tenant, name)) as connection:
            adapter = await lock_adapter(connection, tenant, name)
            if adapter.removed_at is not None:
                raise UnknownAdapter(adapter.public_name)
            alias = await read_alias(connection, tenant, name)
            if alias.generation:
                await write_alias(connection, alias, (), by=by)
            failed = sa.update(_V).where(mine, _V.c.state.in_(UNFINISHED))
            await connection.execute(
                failed.values(state=VersionState.FAILED, error="The adapter was removed.")
            )
            drained = sa.update(_V).where(mine, _V.c.state == VersionState.READY)
            await connection.execute(drained.values(state=VersionState.DRAINING, pinned=False))
            await connection.execute(sa.delete(_C).where(_C.c.tenant == tenant, _C.c.adapter == name))
            gone = sa.update(_A).where(_A.c.tenant == tenant, _A.c.name == name)
            await connection.execute(gone.values(removed_at=utc_now()))
            rows = await connection.execute(sa.select(_V).where(mine, _V.c.state == VersionState.DRAINING))
            return tuple(version_of(row) for row in rows.mappings())

    async def _views(self, query: sa.Select[Any]) -> tuple[AdapterView, ...]:
        async with self._database.read() as connection:
            return _group(await records((await connection.execute(query)).mappings(), _row_of))


def _view(without: Iterable[VersionState] = ()) -> sa.Select[Any]:
    """Adapters with alias and versions, one row per version; the labels `a_`, `l_`, `v_` separate the columns."""
    labelled = [
        column.label(f"{letter}_{column.name}")
        for letter, table in (("a", _A), ("l", _L), ("v", _V))
        for column in table.columns
    ]
    of_adapter = sa.and_(_L.c.tenant == _A.c.tenant, _L.c.adapter == _A.c.name)
    wanted = sa.and_(_V.c.tenant == _A.c.tenant, _V.c.adapter == _A.c.name, _V.c.state.not_in(tuple(without)))
    joined = _A.outerjoin(_L, of_adapter).outerjoin(_V, wanted)
    return sa.select(*labelled).select_from(joined).order_by(_A.c.public_name, _V.c.number)


def _row_of(row: RowMapping) -> tuple[Adapter, Alias, Version | None]:
    adapter = adapter_of(row, "a_")
    targets = targets_of(row["l_targets"] or ())
    alias = Alias(adapter.tenant, adapter.name, row["l_generation"] or 0, targets, row["l_updated_at"])
    return adapter, alias, None if row["v_number"] is None else version_of(row, "v_")


def _group(rows: Iterable[tuple[Adapter, Alias, Version | None]]) -> tuple[AdapterView, ...]:
    found: dict[str, tuple[Adapter, Alias, list[Version]]] = {}
    for adapter, alias, version in rows:
        versions = found.setdefault(adapter.public_name, (adapter, alias, []))[2]
        if version is not None:
            versions.append(version)
    return tuple(AdapterView(adapter, alias, tuple(versions)) for adapter, alias, versions in found.values())
