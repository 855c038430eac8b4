"""What was used and spent since a moment, per tenant or per key: exact, by the prices of each hour."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.billing.prices import PriceList
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

    async def of_tenants(self, since: datetime) -> dict[str, Spent]:
        """By tenant, since the hour of `since`. Raises: RegistryUnavailable."""
        async with self._database.read() as connection:
            table = tables.usage
            return await _spent(connection, table, table.c.tenant, hour_of(since))

    async def of_keys(self, since: datetime) -> dict[str, Spent]:
        """By the keys' accounts, since the hour of `since`. Raises: RegistryUnavailable."""
        async with self._database.read() as connection:
            table = billing_tables.key_usage
            return await _spent(connection, table, table.c.account, hour_of(since))


async def _spent(
    connection: AsyncConnection, table: sa.Table, owner: sa.Column[str], since: datetime
) -> dict[str, Spent]:
    """The sums by owner. Between two changes of prices each adapter has one price, so the database adds up tokens."""
    prices = await read_prices(connection)
    edges = [since, *prices.changes_between(since, _FOR_EVER), _FOR_EVER]
    totals: defaultdict[str, Spent] = defaultdict(Spent)
    for begin, end in pairwise(edges):
        for name, spent in await _between(connection, table, owner, begin, end, prices):
            old = totals[name]
            totals[name] = Spent(old.tokens + spent.tokens, old.cost_picos + spent.cost_picos)
    return dict(totals)


async def _between(
    connection: AsyncConnection,
    table: sa.Table,
    owner: sa.Column[str],
    begin: datetime,
    end: datetime,
    prices: PriceList,
) -> list[tuple[str, Spent]]:
    """Owner and sums of each tenant and adapter in a time in which no price changes."""
    columns = [table.c.prompt_tokens, table.c.cached_tokens, table.c.generated_tokens]
    query = (
        sa.select(owner, table.c.tenant, table.c.adapter, *(sa.func.sum(column) for column in columns))
        .where(table.c.hour >= begin)
        .group_by(owner, table.c.tenant, table.c.adapter)
    )
    if end is not _FOR_EVER:
        query = query.where(table.c.hour < end)
    found = []
    for name, tenant, adapter, *sums in await connection.execute(query):
        prompt, cached, generated = (int(tokens) for tokens in sums)
        cost = prices.at(tenant, adapter, begin).cost_picos(
            prompt_tokens=prompt, cached_tokens=cached, generated_tokens=generated
        )
        found.append((name, Spent(prompt + generated, cost)))
    return found
