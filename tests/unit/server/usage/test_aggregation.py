"""Usage per hour, day and month, and its cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from adapters.billing.prices import Price, PriceEntry, PriceList
from adapters.models import Usage
from adapters.tenant_settings import BudgetPeriod
from server.usage.aggregation import COLUMNS, KEY_COLUMNS, UsageSums, period_start, summed

NOON = datetime(2026, 3, 17, 12, 30, tzinfo=UTC)


def test_summed_per_step() -> None:
    hours = [NOON.replace(minute=0), NOON.replace(minute=0, hour=13), NOON.replace(month=4, minute=0)]
    entries = [Usage("acme", "support", 1, hour, requests=1, generated_tokens=5, run_s=0.1) for hour in hours]
    entries.append(Usage("acme", "", 0, hours[0], requests=2))
    assert [len(summed(entries, by, PriceList(), "USD")) for by in ("hour", "day", "month")] == [4, 3, 3]
    march = [
        row
        for row in summed(entries, "month", PriceList(), "USD")
        if row["from"] == "2026-03-01T00:00:00+00:00"
    ]
    assert [(row["adapter"], row["requests"], row["run_s"]) for row in march] == [
        ("", 2, 0),
        ("support", 2, 0.2),
    ]
    assert tuple(march[0]) == COLUMNS
    assert period_start(BudgetPeriod.DAY, NOON) == datetime(2026, 3, 17, tzinfo=UTC)


def test_each_hour_costs_what_its_price_says() -> None:
    """The price changes at one o'clock in the middle of a day; the day's row has both."""
    prices = PriceList(
        [
            PriceEntry("", "", NOON.replace(hour=0, minute=0), Price(500_000, 100_000, 1_500_000)),
            PriceEntry("acme", "", NOON.replace(hour=13, minute=0), Price(1_000_000, 1_000_000, 0)),
        ]
    )
    noon = Usage(
        "acme", "support", 1, NOON.replace(minute=0), prompt_tokens=3, cached_tokens=1, generated_tokens=7
    )
    entries = [noon, replace(noon, hour=NOON.replace(hour=13, minute=0)), replace(noon, tenant="globex")]
    rows = summed(entries, "day", prices, "EUR")
    first = 2 * 500_000 + 1 * 100_000 + 7 * 1_500_000
    assert [(row["tenant"], row["cost"], row["currency"]) for row in rows] == [
        ("acme", f"0.{(first + 3_000_000) // 100_000:07}", "EUR"),
        ("globex", f"0.{first // 100_000:07}", "EUR"),
    ]


def test_sums_of_keys_have_no_times() -> None:
    used = Usage("acme", "support", 0, NOON.replace(minute=0), requests=1, generated_tokens=2, key="k_1")
    sums = UsageSums("day", PriceList(), "USD", per_key=True)
    sums.add([used, used, replace(used, key="k_2")])
    rows = list(sums.rows())
    assert [(row["key"], row["requests"], row["generated_tokens"]) for row in rows] == [
        ("k_1", 2, 4),
        ("k_2", 1, 2),
    ]
    assert tuple(rows[0]) == KEY_COLUMNS
