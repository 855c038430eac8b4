"""The tenants in the database, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import InUse, NameTaken, UnknownTenant
from adapters.models import Actor, Tenant
from adapters.names import check_new_tenant_name
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import tables
from adapters.tenant_settings import TenantSettings

#: Raises when all tenants together may not have these settings.
Check = Callable[[Sequence[Tenant]], None]


class Tenants(DatabasePart):
    """The registry's tenants."""

    async def add(self, tenant: Tenant, *, by: Actor, check: Check | None = None) -> Tenant:
        """Add a tenant, if `check` accepts all tenants with it.

        Raises: BadName, NameTaken; whatever `check` raises. Then nothing is changed.
        """
        check_new_tenant_name(tenant.name)
        added = replace(tenant, created_at=utc_now())
        try:
            async with self._database.change(by, "tenant.add", tenant.name) as connection:
                await _take_turn(connection)
                await connection.execute(sa.insert(tables.tenants).values(**added.as_dict()))
                await _check_all(connection, check)
        except IntegrityError as error:
            raise NameTaken(f"Tenant {tenant.name!r} exists already.") from error
        return added

    async def get(self, name: str) -> Tenant:
        """Raises: UnknownTenant."""
        async with self._database.read() as connection:
            query = sa.select(tables.tenants).where(tables.tenants.c.name == name)
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise UnknownTenant(name)
        return tenant_of(row)

    async def list(self) -> tuple[Tenant, ...]:
        """All tenants by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(tables.tenants).order_by(tables.tenants.c.name))
            return tuple(tenant_of(row) for row in rows.mappings())

    async def set(
        self, name: str, changes: Mapping[str, Any], *, by: Actor, check: Check | None = None
    ) -> Tenant:
        """Change some settings of a tenant, if `check` accepts all tenants with them.

        Raises: UnknownTenant, BadValue; whatever `check` raises. Then nothing is changed.
        """
        table = tables.tenants
        async with self._database.change(by, "tenant.set", name, changes) as connection:
            await _take_turn(connection)
            query = sa.select(table).where(table.c.name == name).with_for_update()
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise UnknownTenant(name)
            tenant = tenant_of(row)
            tenant = replace(tenant, settings=tenant.settings.changed(changes))
            stored = tenant.settings.model_dump()
            values = {key: stored[key] for key in changes}
            if values:
                await connection.execute(sa.update(table).where(table.c.name == name).values(**values))
            await _check_all(connection, check)
        return tenant

    async def remove(self, name: str, *, by: Actor) -> None:
        """Remove a tenant with its keys, the history of its adapters and its users' feedback.

        Raises: UnknownTenant; InUse: it still has adapters that were not removed.
        """
        table, adapters = tables.tenants, tables.adapters
        async with self._database.change(by, "tenant.remove", name) as connection:
            alive = sa.select(adapters.c.name).where(
                adapters.c.tenant == name, adapters.c.removed_at.is_(None)
            )
            used = (await connection.execute(alive.limit(1))).scalar_one_or_none()
            if used is not None:
                raise InUse(f"Tenant {name!r} still has adapter {used!r}; remove its adapters first.")
            if (await connection.execute(sa.delete(table).where(table.c.name == name))).rowcount == 0:
                raise UnknownTenant(name)
            await connection.execute(sa.delete(tables.feedback).where(tables.feedback.c.tenant == name))


async def _take_turn(connection: AsyncConnection) -> None:
    """Serialise the changes of tenants: two that each fit alone must not both pass their check.

    Every change locks the counter of revisions at its end; this locks it at the beginning.
    """
    counters = tables.counters
    query = sa.select(counters.c.value).where(counters.c.name == "revision").with_for_update()
    await connection.execute(query)


async def _check_all(connection: AsyncConnection, check: Check | None) -> None:
    if check is not None:
        rows = await connection.execute(sa.select(tables.tenants))
        check(tuple(tenant_of(row) for row in rows.mappings()))


def tenant_of(row: Mapping[Any, Any]) -> Tenant:
    """A row of `tables.tenants` as a record."""
    return Tenant(row["name"], TenantSettings.read(row["name"], row), row["created_at"])
