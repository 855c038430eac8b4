"""Which price holds for whom and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.billing.prices import FREE, Price, PriceEntry, PriceList

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALL, ACME, SUPPORT = Price(1, 1, 1), Price(2, 2, 2), Price(3, 3, 3)


def test_the_nearest_price_holds_from_its_hour_on() -> None:
    prices = PriceList(
        [
            PriceEntry("acme", "support", MARCH + 3 * HOUR, SUPPORT),
            PriceEntry("acme", "", MARCH + 2 * HOUR, ACME),
            PriceEntry("", "", MARCH + HOUR, ALL),
            PriceEntry("acme", "support", MARCH + 4 * HOUR, None),
            PriceEntry("acme", "", MARCH + 5 * HOUR, None),
        ]
    )
    held = [prices.at("acme", "support", MARCH + hours * HOUR) for hours in range(6)]
    assert held == [FREE, ALL, ACME, SUPPORT, ACME, ALL]
    assert prices.at("acme", "", MARCH + 3 * HOUR) == ACME, "the base model and other adapters"
    assert prices.at("globex", "support", MARCH + 3 * HOUR) == ALL
    assert prices.at("acme", "support", MARCH + HOUR - timedelta(seconds=1)) == FREE
    assert prices.changes_between(MARCH + HOUR, MARCH + 4 * HOUR) == [MARCH + 2 * HOUR, MARCH + 3 * HOUR]


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**12), st.integers(0, 10**12))
def test_costs_are_whole_numbers_and_a_budget_is_charged_at_least_the_cost(
    computed: int, cached: int, micros: int, generated_micros: int
) -> None:
    price = Price(micros, micros // 4, generated_micros)
    tokens = {"prompt_tokens": computed + cached, "cached_tokens": cached, "generated_tokens": 7}
    picos = price.cost_picos(**tokens)
    assert picos == computed * micros + cached * (micros // 4) + 7 * generated_micros
    assert 0 <= price.cost_nanos(**tokens) * 1000 - picos < 1000
