"""Tenants: who they are and what they may use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import BadValue, InUse, NameTaken, UnknownTenant
from adapters.models import Actor, BudgetPeriod, Tenant
from adapters.names import check_tenant_name
from adapters.registry.database import Database, utc_now
from adapters.registry.schema import tables

#: Says whether all tenants together may be so; raises when they may not.
Check = Callable[[Sequence[Tenant]], None]

_SETTABLE = frozenset(field.name for field in fields(Tenant)) - {"name", "created_at"}


class Tenants:
    """The registry's tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant: Tenant, *, by: Actor, check: Check | None = None) -> Tenant:
        """Add a tenant, if `check` lets all tenants be as they then are.

        Raises: BadName, BadValue, NameTaken; whatever `check` raises, and nothing is changed.
        """
        check_tenant_name(tenant.name)
        row = asdict(check_tenant(replace(tenant, created_at=utc_now())))
        try:
            async with self._database.change(by, "tenant.add", tenant.name) as connection:
                await _take_turn(connection)
                await connection.execute(sa.insert(tables.tenants).values(**row))
                await _check_all(connection, check)
        except IntegrityError as error:
            raise NameTaken(f"tenant {tenant.name!r} exists already") from error
        return tenant_of(row)

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
        """Change some fields of a tenant, if `check` lets all tenants be as they then are.

        Raises: UnknownTenant, BadValue; whatever `check` raises, and nothing is changed.
        """
        unknown = sorted(set(changes) - _SETTABLE)
        if unknown:
            raise BadValue(
                f"a tenant has no setting {unknown[0]!r}; there are {', '.join(sorted(_SETTABLE))}"
            )
        table = tables.tenants
        async with self._database.change(by, "tenant.set", name, changes) as connection:
            await _take_turn(connection)
            query = sa.select(table).where(table.c.name == name).with_for_update()
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise UnknownTenant(name)
            tenant = check_tenant(tenant_of({**row, **changes}))
            values = {key: getattr(tenant, key) for key in changes}
            if values:
                await connection.execute(sa.update(table).where(table.c.name == name).values(**values))
            await _check_all(connection, check)
        return tenant

    async def remove(self, name: str, *, by: Actor) -> None:
        """Remove a tenant with its keys, the history of its adapters and what its users said.

        Raises: UnknownTenant; InUse: it still has adapters that were not removed.
        """
        table, adapters = tables.tenants, tables.adapters
        async with self._database.change(by, "tenant.remove", name) as connection:
            alive = sa.select(adapters.c.name).where(
                adapters.c.tenant == name, adapters.c.removed_at.is_(None)
            )
            used = (await connection.execute(alive.limit(1))).scalar_one_or_none()
            if used is not None:
                raise InUse(f"tenant {name!r} still has adapter {used!r}; remove its adapters first")
            if (await connection.execute(sa.delete(table).where(table.c.name == name))).rowcount == 0:
                raise UnknownTenant(name)
            await connection.execute(sa.delete(tables.feedback).where(tables.feedback.c.tenant == name))


async def _take_turn(connection: AsyncConnection) -> None:
    """Changes of tenants come one after the other: two that each fit alone must not both pass their check.

    The counter of revisions is locked by every change in the end; here it is locked from the beginning.
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
    values = {field.name: row[field.name] for field in fields(Tenant)}
    try:
        values["budget_period"] = BudgetPeriod(values["budget_period"])
    except ValueError as error:
        raise BadValue(
            f"budget_period {str(values['budget_period'])!r} must be one of {', '.join(BudgetPeriod)}"
        ) from error
    return Tenant(**values)


def check_tenant(tenant: Tenant) -> Tenant:
    """Return `tenant` when its numbers make sense. Raises: BadValue."""
    if not (_is_number(tenant.weight) and 0.001 <= tenant.weight <= 1000):
        raise BadValue(f"weight {tenant.weight!r} must be a number from 0.001 to 1000")
    for name in ("kv_guarantee", "kv_limit"):
        share = getattr(tenant, name)
        if not (_is_number(share) and 0 <= share <= 1):
            raise BadValue(f"{name} {share!r} must be a share from 0 to 1")
    if tenant.kv_limit < tenant.kv_guarantee or tenant.kv_limit == 0:
        raise BadValue(
            f"kv_limit {tenant.kv_limit:g} must be above 0 and at least kv_guarantee {tenant.kv_guarantee:g}"
        )
    for name in ("max_concurrency", "rpm", "tpm", "token_budget"):
        limit = getattr(tenant, name)
        if limit is not None and not (type(limit) is int and 0 < limit < 2**31):
            raise BadValue(
                f"{name} {limit!r} must be a whole number from 1 to {2**31 - 1}, or nothing for no limit"
            )
    for name in ("sampling_defaults", "limits"):
        if not isinstance(getattr(tenant, name), Mapping):
            raise BadValue(f"{name} must be an object of names and values")
    return tenant


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
