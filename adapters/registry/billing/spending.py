"""What was used and spent since a moment, per tenant or per key: exact, by the prices of each hour."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.registry.billing.prices import read_prices
from adapters.registry.database import DatabasePart
from adapters.registry.schema import billing_tables, tables
from adapters.registry.usage import hour_of

_FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens, and their cost in 1e-12 of the currency."""

    tokens: int = 0
    cost_picos: int = 0


class Spending(DatabasePart):
    """Sums of the usage tables in money."""

    async def of_tenants(self, since: datetime, tenant: str | None = None) -> dict[str, Spent]:
        """By tenant, since the hour of `since`; of one tenant or all. Raises: RegistryUnavailable."""
        return await self._of(tables.usage, "tenant", since, tenant)

    async def of_keys(self, since: datetime, tenant: str | None = None) -> dict[str, Spent]:
        """By the keys' accounts, since the hour of `since`; of one tenant or all. Raises: RegistryUnavailable."""
        return await self._of(billing_tables.key_usage, "account", since, tenant)

    async def _of(self, table: sa.Table, owner: str, since: datetime, tenant: str | None) -> dict[str, Spent]:
        columns = [table.c.prompt_tokens, table.c.cached_tokens, table.c.generated_tokens]
        names = (table.c[owner], table.c.tenant, table.c.adapter)
        query = sa.select(*names, *(sa.func.sum(column) for column in columns)).group_by(*names)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        async with self._database.read() as connection:
            return await _spent(connection, query, table.c.hour, hour_of(since))


async def _spent(
    connection: AsyncConnection, query: sa.Select[Any], hour: sa.Column[Any], since: datetime
) -> dict[str, Spent]:
    """The sums by owner. Between two changes of prices each adapter has one price, so the database adds up tokens."""
    prices = await read_prices(connection)
    edges = [since, *prices.changes_between(since, _FOR_EVER), _FOR_EVER]
    totals: defaultdict[str, Spent] = defaultdict(Spent)
    for begin, end in pairwise(edges):
        part = query.where(hour >= begin)
        if end is not _FOR_EVER:
            part = part.where(hour < end)
        for name, tenant, adapter, *sums in await connection.execute(part):
            prompt, cached, generated = (int(tokens) for tokens in sums)
            cost = prices.at(tenant, adapter, begin).cost_picos(
                prompt_tokens=prompt, cached_tokens=cached, generated_tokens=generated
            )
            old = totals[name]
            totals[name] = Spent(old.tokens + prompt + generated, old.cost_picos + cost)
    return dict(totals)
