"""The versions in the database: registered once; only their state, pin and engine id change later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import IllegalTransition, InUse, NameTaken, UnknownTenant
from adapters.models import Actor, Version, VersionState
from adapters.names import check_adapter_name, check_tenant_name, public_name
from adapters.registry.aliases import read_alias
from adapters.registry.database import Database, count_up, insert_into, utc_now
from adapters.registry.schema import tables
from adapters.registry.schema.rows import lock_adapter, read_version, version_of
from adapters.registry.state_machine import ENDED, UNFINISHED, check_transition

_A, _L, _V = tables.adapters, tables.aliases, tables.versions


class Versions:
    """The versions. `reserved` are public names that no adapter may have (the base model's)."""

    def __init__(self, database: Database, reserved: Collection[str]) -> None:
        self._database = database
        self._reserved = frozenset(reserved)

    async def register(
        self,
        tenant: str,
        adapter: str,
        source: str,
        *,
        by: Actor,
        sampling_defaults: Mapping[str, Any] | None = None,
        owner: str | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Version:
        """Add a version with a new number and engine id; its adapter is created, or restored, if need be.

        `owner` is the server that adds it: if that dies, others take the version over. `recipe` is a blend's.
        Raises: BadName, UnknownTenant; NameTaken: the base model has the public name.
        """
        name = public_name(check_tenant_name(tenant), check_adapter_name(adapter))
        if name in self._reserved:
            raise NameTaken(f"{name!r} is the name of the base model; choose another adapter name.")
        try:
            details = {"source": source} | ({"recipe": recipe} if recipe else {})
            async with self._database.change(by, "version.register", name, details) as connection:
                number = await _next_number(connection, tenant, adapter)
                version = Version(
                    tenant=tenant,
                    adapter=adapter,
                    number=number,
                    engine_id=await count_up(connection, "engine_id"),
                    state=VersionState.REGISTERED,
                    source=source,
                    created_at=utc_now(),
                    sampling_defaults=dict(sampling_defaults or {}),
                    owner=owner,
                    recipe=recipe,
                )
                values = {column.name: getattr(version, column.name) for column in _V.columns}
                await connection.execute(sa.insert(_V).values(**values))
        except IntegrityError as error:  # the foreign key to tenants
            raise UnknownTenant(tenant) from error
        return version

    async def get(self, tenant: str, adapter: str, number: int) -> Version:
        """Raises: UnknownVersion."""
        async with self._database.read() as connection:
            return await read_version(connection, tenant, adapter, number)

    async def list(
        self, states: Collection[VersionState], *, pinned: bool | None = None
    ) -> tuple[Version, ...]:
        """All versions in these states, or only those that are pinned or not, oldest engine id first."""
        query = sa.select(_V).where(_V.c.state.in_(tuple(states))).order_by(_V.c.engine_id)
        if pinned is not None:
            query = query.where(_V.c.pinned == pinned)
        async with self._database.read() as connection:
            return tuple(version_of(row) for row in (await connection.execute(query)).mappings())

    async def loaded(self, engine_ids: Collection[int]) -> tuple[tuple[Version, bool], ...]:
        """The versions that these engine ids stand for, and whether the alias points at each.

        An id without a version was given to it before a failed load: the version has a newer one.
        """
        both = sa.outerjoin(_V, _L, sa.and_(_V.c.tenant == _L.c.tenant, _V.c.adapter == _L.c.adapter))
        query = sa.select(_V, _L.c.targets).select_from(both).where(_V.c.engine_id.in_(tuple(engine_ids)))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(
            (version_of(row), any(int(number) == row["number"] for number, _ in row["targets"] or ()))
            for row in rows
        )

    async def count_states(self) -> dict[tuple[str, str], int]:
        """Number of versions by tenant and state."""
        query = sa.select(_V.c.tenant, _V.c.state, sa.func.count()).group_by(_V.c.tenant, _V.c.state)
        async with self._database.read() as connection:
            return {(tenant, str(state)): count for tenant, state, count in await connection.execute(query)}

    async def digests(self) -> frozenset[str]:
        """The digests of artifacts that a version still needs."""
        query = sa.select(_V.c.digest).where(_V.c.digest.is_not(None), _V.c.state.not_in(tuple(ENDED)))
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query.distinct())).scalars())

    async def transition(self, version: Version, to: VersionState, *, by: Actor, **facts: Any) -> Version:
        """Change the state of a version that is still in the state it was read in; `facts` are further columns.

        Raises: IllegalTransition: not a legal change, or the state has changed meanwhile; UnknownVersion;
            InUse: to DRAINING while the alias still points at it.
        """
        name = f"{version.public_name}@{version.number}"
        check_transition(name, version.state, to)
        assert to is not VersionState.RESIDENT, "resident is never written; see VersionState"
        details = {"from": version.state, "error": facts.get("error")}
        async with self._database.change(by, f"version.{to}", name, details) as connection:
            await lock_adapter(connection, version.tenant, version.adapter)
            now = await read_version(connection, version.tenant, version.adapter, version.number)
            if now.state is not version.state:
                raise IllegalTransition(
                    f"{name} is now {now.state}, no longer {version.state}; read it again and repeat the change."
                )
            if to is VersionState.DRAINING:
                await _require_unaliased(connection, now)
                facts["pinned"] = False
            await connection.execute(sa.update(_V).where(*_same(version)).values(state=to, **facts))
            return await read_version(connection, version.tenant, version.adapter, version.number)

    async def begin_removal(self, tenant: str, adapter: str, number: int, *, by: Actor) -> Version:
        """Take a version out of service: it drains now, or it fails if it was still being added.

        Raises: UnknownVersion; IllegalTransition, InUse: as `transition`.
        """
        version = await self.get(tenant, adapter, number)
        if version.state in UNFINISHED:
            return await self.transition(
                version, VersionState.FAILED, by=by, error="The version was removed."
            )
        return await self.transition(version, VersionState.DRAINING, by=by)

    async def renew_engine_id(self, version: Version, *, by: Actor) -> Version:
        """Give a version a new engine id after a failed load; nothing happens if it has a newer one already."""
        name = f"{version.public_name}@{version.number}"
        async with self._database.change(by, "version.renew", name, {"old": version.engine_id}) as connection:
            await lock_adapter(connection, version.tenant, version.adapter)
            now = await read_version(connection, version.tenant, version.adapter, version.number)
            if now.engine_id == version.engine_id:
                fresh = await count_up(connection, "engine_id")
                await connection.execute(sa.update(_V).where(*_same(version)).values(engine_id=fresh))
            return await read_version(connection, version.tenant, version.adapter, version.number)

    async def set_pinned(self, version: Version, pinned: bool, *, by: Actor) -> Version:
        """Store whether a version stays loaded across restarts. Raises: UnknownVersion, IllegalTransition."""
        name = f"{version.public_name}@{version.number}"
        async with self._database.change(
            by, "version.pin" if pinned else "version.unpin", name
        ) as connection:
            await lock_adapter(connection, version.tenant, version.adapter)
            now = await read_version(connection, version.tenant, version.adapter, version.number)
            if pinned and now.state is not VersionState.READY:
                raise IllegalTransition(f"{name} is {now.state}; only a ready version can be pinned.")
            await connection.execute(sa.update(_V).where(*_same(version)).values(pinned=pinned))
            return await read_version(connection, version.tenant, version.adapter, version.number)


def _same(version: Version) -> tuple[sa.ColumnElement[bool], ...]:
    return (_V.c.tenant == version.tenant, _V.c.adapter == version.adapter, _V.c.number == version.number)


async def _next_number(connection: AsyncConnection, tenant: str, adapter: str) -> int:
    """The next version number. A removed adapter is restored, and its numbers continue."""
    row = {"tenant": tenant, "name": adapter, "public_name": public_name(tenant, adapter)}
    made = insert_into(connection.dialect, _A).values(**row, next_number=1, created_at=utc_now())
    # NOTE: with a conflict target, a race on the other unique index would raise an error.
    await connection.execute(made.on_conflict_do_nothing())
    mine = sa.and_(_A.c.tenant == tenant, _A.c.name == adapter)
    taken = sa.update(_A).where(mine).values(next_number=_A.c.next_number + 1, removed_at=None)
    return int((await connection.execute(taken.returning(_A.c.next_number))).scalar_one()) - 1


async def _require_unaliased(connection: AsyncConnection, version: Version) -> None:
    alias = await read_alias(connection, version.tenant, version.adapter)
    if any(target.number == version.number for target in alias.targets):
        raise InUse(
            f"Version {version.number} still serves {version.public_name!r}; "
            "promote another version first, or remove the adapter."
        )
