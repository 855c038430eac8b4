"""The price list in the database, and costs that equal a recount, on SQLite and PostgreSQL."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from adapters.billing.errors import UnknownPrice
from adapters.billing.money import cents_text
from adapters.billing.prices import Price, PriceEntry
from adapters.errors import BadValue, UnknownAdapter, UnknownTenant
from adapters.models import Actor, Usage
from adapters.registry import Registry
from adapters.registry.billing.prices import Prices
from server.usage.aggregation import UsageSums

BY = Actor("test", "k_test")
NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST, SECOND, OWN = Price(500_000, 125_000, 1_500_001), Price(700_003, 100_000, 2_000_000), Price(9, 9, 9)


def prices_of(registry: Registry) -> Prices:
    """The price list, at half past twelve."""
    return Prices(registry._database, lambda: NOW)


async def test_prices_are_kept_and_logged(registry: Registry) -> None:
    prices = prices_of(registry)
    next_hour = NOW.replace(hour=13, minute=0)
    assert await prices.set("", "", FIRST, by=BY) == PriceEntry("", "", next_hour, FIRST)
    await prices.set("", "", SECOND, by=BY)  # of the same hour: replaced
    await prices.set("acme", "", None, by=BY, valid_from=next_hour + HOUR)
    entries = (await registry.prices.list()).entries
    assert entries == (
        PriceEntry("", "", next_hour, SECOND),
        PriceEntry("acme", "", next_hour + HOUR, None),
    )
    logged = await registry.audit.list(limit=3)
    assert [(entry.action, entry.subject) for entry in logged] == [
        ("price.set", "acme"),
        ("price.set", "everybody"),
        ("price.set", "everybody"),
    ]
    assert logged[1].details["generated_micros"] == 2_000_000
    await prices.remove("", "", next_hour, by=BY)
    with pytest.raises(UnknownPrice, match="no price for 'everybody'"):
        await prices.remove("", "", next_hour, by=BY)


async def test_usage_that_was_counted_changes_its_cost_only_on_request(registry: Registry) -> None:
    prices = prices_of(registry)
    begun = NOW.replace(minute=0)
    with pytest.raises(BadValue, match="which has begun"):
        await prices.set("", "", FIRST, by=BY, valid_from=begun)
    await prices.set("", "", FIRST, by=BY, valid_from=begun, backdate=True)
    with pytest.raises(BadValue, match="has begun, and usage was counted with it"):
        await prices.remove("", "", begun, by=BY)


async def test_prices_that_mean_nothing_are_refused(registry: Registry) -> None:
    prices = prices_of(registry)
    with pytest.raises(BadValue, match="from the start of an hour on"):
        await prices.set("", "", FIRST, by=BY, valid_from=NOW + HOUR)
    with pytest.raises(BadValue, match="time zone"):
        await prices.set("", "", FIRST, by=BY, valid_from=datetime(2027, 1, 1))
    with pytest.raises(BadValue, match="needs its tenant"):
        await prices.set("", "support", FIRST, by=BY)
    with pytest.raises(BadValue, match="cached tokens"):
        await prices.set("", "", Price(1, 2, 3), by=BY)
    with pytest.raises(UnknownTenant):
        await prices.set("nobody", "", FIRST, by=BY)
    with pytest.raises(UnknownAdapter):
        await prices.set("acme", "nothing", FIRST, by=BY)
    assert (await registry.prices.list()).entries == ()


@pytest.mark.slow
async def test_ten_thousand_requests_cost_what_a_recount_says(registry: Registry) -> None:
    """Prices change in the middle of the day, and one tenant gets a price of its own later."""
    began = NOW.replace(hour=8, minute=0)
    changes = ((began, ""), (began + 3 * HOUR, ""), (began + 5 * HOUR, "acme"))
    for (moment, tenant), price in zip(changes, (FIRST, SECOND, OWN), strict=True):
        await registry.prices.set(tenant, "", price, by=BY, valid_from=moment, backdate=True)
    draw = random.Random(17)
    requests = [
        Usage(
            draw.choice(("acme", "globex")),
            draw.choice(("", "support")),
            1,
            began + timedelta(minutes=draw.randrange(8 * 60)),
            requests=1,
            prompt_tokens=(prompt := draw.randrange(1, 3000)),
            cached_tokens=draw.randrange(prompt),
            generated_tokens=draw.randrange(500),
            key=draw.choice(("k_1", "k_2", "k_3")),
        )
        for _ in range(10_000)
    ]
    for start in range(0, len(requests), 100):
        await registry.usage.add(requests[start : start + 100])

    recount: Counter[str] = Counter()
    for request in requests:  # by hand: request by request, not by hour and price list
        price = FIRST if request.hour < began + 3 * HOUR else SECOND
        if request.tenant == "acme" and request.hour >= began + 5 * HOUR:
            price = OWN
        computed = request.prompt_tokens - request.cached_tokens
        cost = computed * price.prompt_micros + request.cached_tokens * price.cached_micros
        recount[request.tenant] += cost + request.generated_tokens * price.generated_micros
        recount[request.key] += cost + request.generated_tokens * price.generated_micros

    spent = await registry.spending.of_tenants(began)
    keys = await registry.spending.of_keys(began)
    assert {name: found.cost_picos for name, found in (spent | keys).items()} == recount
    assert await registry.spending.of_tenants(began, "acme") == {"acme": spent["acme"]}
    assert (
        sum(s.tokens for s in (await registry.spending.of_keys(began, "acme")).values())
        == spent["acme"].tokens
    )
    assert spent["acme"].tokens == sum(
        r.prompt_tokens + r.generated_tokens for r in requests if r.tenant == "acme"
    )
    for per_key, entries in (
        (False, await registry.usage.list(since=began)),
        (True, await registry.usage.of_keys(since=began)),
    ):
        sums = UsageSums("month", await registry.prices.list(), "EUR", per_key=per_key)
        sums.add(entries)
        rows = list(sums.rows())
        assert sum(int(str(row["requests"])) for row in rows) == 10_000
        for tenant in ("acme", "globex"):
            bill = sum(Fraction(str(row["cost"])) for row in rows if row["tenant"] == tenant)
            assert bill == Fraction(recount[tenant], 10**12)
            assert abs(Fraction(cents_text(recount[tenant])) - bill) <= Fraction(1, 200)
