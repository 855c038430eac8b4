"""Prices per million tokens, and which of them holds for whom and when.

A price holds for everybody, for one tenant, or for one adapter of a tenant, from the start of an hour (UTC) on. The
usage table counts per hour, so every counted token has exactly one price, whenever the bill is made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final


@dataclass(frozen=True, slots=True)
class Price:
    """Micros (1e-6 of the currency) per million tokens."""

    prompt_micros: int
    """Of prompt tokens that were computed."""
    cached_micros: int
    """Of prompt tokens that the prefix cache had; at most `prompt_micros`."""
    generated_micros: int

    def cost_picos(self, *, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> int:
        """The exact cost in 1e-12 of the currency; `cached_tokens` are part of `prompt_tokens`."""
        return (
            (prompt_tokens - cached_tokens) * self.prompt_micros
            + cached_tokens * self.cached_micros
            + generated_tokens * self.generated_micros
        )

    def cost_nanos(self, *, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> int:
        """The cost in 1e-9 of the currency, rounded up, so that a budget is never exceeded."""
        picos = self.cost_picos(
            prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, generated_tokens=generated_tokens
        )
        return -(-picos // 1000)


FREE: Final = Price(0, 0, 0)


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One line of the price list."""

    tenant: str
    """"" for every tenant without a price of its own."""
    adapter: str
    """"" for all models of the tenant without a price of their own, the base model among them."""
    valid_from: datetime
    """The start of an hour, UTC."""
    price: Price | None
    """None: from then on there is no price of its own any more; the tenant's, or everybody's, holds."""


class PriceList:
    """All prices, past, present and future."""

    def __init__(self, entries: Iterable[PriceEntry] = ()) -> None:
        self.entries = tuple(
            sorted(entries, key=lambda entry: (entry.tenant, entry.adapter, entry.valid_from))
        )
        self._times: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
        self._prices: defaultdict[tuple[str, str], list[Price | None]] = defaultdict(list)
        for entry in self.entries:
            self._times[entry.tenant, entry.adapter].append(entry.valid_from)
            self._prices[entry.tenant, entry.adapter].append(entry.price)

    def at(self, tenant: str, adapter: str, moment: datetime) -> Price:
        """The price of an adapter's tokens ("": the base model's) at a moment; FREE where none was set."""
        for scope in ((tenant, adapter), (tenant, ""), ("", "")):
            times = self._times.get(scope)
            if times and (count := bisect_right(times, moment)):
                price = self._prices[scope][count - 1]
                if price is not None:
                    return price
        return FREE

    def changes_between(self, since: datetime, until: datetime) -> list[datetime]:
        """The moments after `since` and before `until` at which any price changes, in order."""
        return sorted({entry.valid_from for entry in self.entries if since < entry.valid_from < until})
