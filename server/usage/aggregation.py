"""Usage added up per hour, day or month, with its cost, for the usage export and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from adapters.billing.money import picos_text
from adapters.billing.prices import PriceList
from adapters.models import Usage
from adapters.tenant_settings import BudgetPeriod


def period_start(period: BudgetPeriod, now: datetime) -> datetime:
    """The start (UTC) of the calendar day or month of `now`."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today if period is BudgetPeriod.DAY else today.replace(day=1)


#: What a row is the sum of.
NAMES = ("tenant", "adapter", "version")
#: The same for sums per key.
KEY_NAMES = ("tenant", "key", "adapter")
#: The columns that are summed, in the order of the export.
SUMS = tuple(f.name for f in fields(Usage) if f.name not in (*NAMES, "hour", "key"))
#: The same for sums per key; times and KV blocks are not counted per key.
KEY_SUMS = ("requests", "prompt_tokens", "cached_tokens", "generated_tokens")
COST = ("cost", "currency")
COLUMNS = ("from", *NAMES, *SUMS, *COST)
KEY_COLUMNS = ("from", *KEY_NAMES, *KEY_SUMS, *COST)


class UsageSums:
    """Adds up usage per hour, day or month, and per tenant, adapter and version, or per tenant, key and adapter.

    Each hour is priced by itself, without rounding, so a change of prices within a day or month is exact.

    Args:
        by: hour, day or month; `from` in a row is the start of its hour, day or month (UTC).
        prices: the price list.
        currency: its currency.
        per_key: sum per key; the entries are then those of `UsageStore.of_keys`.
    """

    def __init__(self, by: str, prices: PriceList, currency: str, *, per_key: bool = False) -> None:
        self._by = by
        self._prices = prices
        self._currency = currency
        self._names, self._sums = (KEY_NAMES, KEY_SUMS) if per_key else (NAMES, SUMS)
        self._periods: dict[datetime, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def add(self, entries: Iterable[Usage]) -> None:
        """Add rows of the usage table."""
        for entry in entries:
            begins = entry.hour if self._by == "hour" else period_start(BudgetPeriod(self._by), entry.hour)
            period = self._periods.setdefault(begins, {})
            row = period.get(key := tuple(getattr(entry, name) for name in self._names))
            if row is None:
                row = period[key] = {"from": begins.isoformat(), **dict(zip(self._names, key, strict=True))}
                row.update(dict.fromkeys((*self._sums, "cost"), 0))
            row.update({name: row[name] + getattr(entry, name) for name in self._sums})
            row["cost"] += cost_picos(entry, self._prices)

    def rows(self) -> Iterator[dict[str, object]]:
        """The sums as plain rows, oldest first."""
        for _, period in sorted(self._periods.items()):
            for _, row in sorted(period.items()):
                yield _rounded(row) | {"cost": picos_text(row["cost"]), "currency": self._currency}


def cost_picos(entry: Usage, prices: PriceList) -> int:
    """The exact cost of a row of the usage table, in 1e-12 of the currency."""
    return prices.at(entry.tenant, entry.adapter, entry.hour).cost_picos(
        prompt_tokens=entry.prompt_tokens,
        cached_tokens=entry.cached_tokens,
        generated_tokens=entry.generated_tokens,
    )


def summed(entries: Iterable[Usage], by: str, prices: PriceList, currency: str) -> list[dict[str, object]]:
    """All rows of `UsageSums` for these rows of the usage table."""
    sums = UsageSums(by, prices, currency)
    sums.add(entries)
    return list(sums.rows())


def _rounded(row: dict[str, Any]) -> dict[str, object]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
