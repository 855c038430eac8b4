"""The price list: lines are added, and future ones removed; a past one stays, because bills were made with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.billing.errors import UnknownPrice
from adapters.billing.prices import Price, PriceEntry, PriceList
from adapters.errors import BadValue, UnknownAdapter, UnknownTenant
from adapters.models import Actor
from adapters.names import public_name
from adapters.registry.database import Database, DatabasePart, insert_into, utc_now
from adapters.registry.schema import billing_tables, tables
from adapters.registry.usage import hour_of

_P = billing_tables.prices
_COLUMNS = ("prompt_micros", "cached_micros", "generated_micros")


class Prices(DatabasePart):
    """The registry's prices."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(database)
        self._now = now

    async def list(self) -> PriceList:
        """All prices: past, present and future."""
        async with self._database.read() as connection:
            return await read_prices(connection)

    async def set(
        self,
        tenant: str,
        adapter: str,
        price: Price | None,
        *,
        by: Actor,
        valid_from: datetime | None = None,
        backdate: bool = False,
    ) -> PriceEntry:
        """Add a line, or replace the one of the same hour.

        Args:
            tenant, adapter, price: as in `PriceEntry`.
            valid_from: the start of an hour; None: the next one.
            backdate: allow an hour that has begun, whose usage then costs something else than before.

        Raises:
            UnknownTenant, UnknownAdapter: there is none of this name.
            BadValue: `cached` above `prompt`, an adapter without a tenant, or `valid_from` is not allowed.
        """
        now = self._now()
        begins = _checked_hour(valid_from, now, backdate=backdate)
        _check(tenant, adapter, price)
        entry = PriceEntry(tenant, adapter, begins, price)
        details = {"valid_from": begins.isoformat(), **_micros(price)}
        async with self._database.change(by, "price.set", scope_name(tenant, adapter), details) as connection:
            await _require(connection, tenant, adapter)
            row = {"tenant": tenant, "adapter": adapter, "valid_from": begins, **_micros(price)}
            insert = insert_into(connection.dialect, _P).values(**row)
            await connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[_P.c.tenant, _P.c.adapter, _P.c.valid_from], set_=_micros(price)
                )
            )
        return entry

    async def remove(self, tenant: str, adapter: str, valid_from: datetime, *, by: Actor) -> None:
        """Remove a line that does not hold yet. Raises: UnknownPrice; BadValue: it holds, or has held."""
        if valid_from <= self._now():
            raise BadValue(
                f"The price from {valid_from.isoformat()} has begun, and usage was counted with it; set a new price, "
                "which holds from the next hour on."
            )
        same = sa.and_(_P.c.tenant == tenant, _P.c.adapter == adapter, _P.c.valid_from == valid_from)
        details = {"valid_from": valid_from.isoformat()}
        async with self._database.change(
            by, "price.remove", scope_name(tenant, adapter), details
        ) as connection:
            if (await connection.execute(sa.delete(_P).where(same))).rowcount == 0:
                raise UnknownPrice(scope_name(tenant, adapter), valid_from.isoformat())


async def read_prices(connection: AsyncConnection) -> PriceList:
    """All prices, read within a transaction."""
    return PriceList(_entry(row) for row in (await connection.execute(sa.select(_P))).mappings())


def scope_name(tenant: str, adapter: str) -> str:
    """How audit log and messages name whom a price is for."""
    if not tenant:
        return "everybody"
    return public_name(tenant, adapter) if adapter else tenant


def _entry(row: RowMapping) -> PriceEntry:
    price = None if row["prompt_micros"] is None else Price(*(row[name] for name in _COLUMNS))
    return PriceEntry(row["tenant"], row["adapter"], row["valid_from"], price)


def _micros(price: Price | None) -> dict[str, int | None]:
    return {name: getattr(price, name) if price else None for name in _COLUMNS}


def _checked_hour(valid_from: datetime | None, now: datetime, *, backdate: bool) -> datetime:
    """Raises: BadValue."""
    if valid_from is None:
        return hour_of(now) + timedelta(hours=1)
    if valid_from.tzinfo is None:
        raise BadValue("valid_from needs a time zone, for example 2026-07-01T00:00:00+00:00.")
    if hour_of(valid_from) != valid_from:
        raise BadValue(
            f"valid_from is {valid_from.isoformat()}; usage is counted per hour (UTC), so a price holds from the "
            "start of an hour on."
        )
    if valid_from <= now and not backdate:
        raise BadValue(
            f"valid_from is {valid_from.isoformat()}, which has begun, so usage that is counted already would cost "
            "something else than before; leave it out for the next hour, or ask for it with backdate."
        )
    return hour_of(valid_from)


def _check(tenant: str, adapter: str, price: Price | None) -> None:
    """Raises: BadValue."""
    if adapter and not tenant:
        raise BadValue(
            f"Adapter {adapter!r} needs its tenant: a price is for everybody, a tenant, or its adapter."
        )
    if price is not None and price.cached_micros > price.prompt_micros:
        raise BadValue(
            f"The price of cached tokens ({price.cached_micros} micros) is above that of prompt tokens "
            f"({price.prompt_micros} micros); budgets reserve the latter. Set it to at most that."
        )


async def _require(connection: AsyncConnection, tenant: str, adapter: str) -> None:
    """Raises: UnknownTenant, UnknownAdapter."""
    if not tenant:
        return
    known = sa.select(tables.tenants.c.name).where(tables.tenants.c.name == tenant)
    if (await connection.execute(known)).scalar_one_or_none() is None:
        raise UnknownTenant(tenant)
    table = tables.adapters
    named = sa.select(table.c.name).where(table.c.tenant == tenant, table.c.name == adapter)
    if adapter and (await connection.execute(named)).scalar_one_or_none() is None:
        raise UnknownAdapter(public_name(tenant, adapter))
