"""How many sequences of each tenant one step computes.

All sequences of a step wait for the whole step, and on a CPU a step lasts longer the more of them it has. So a tenant
with many sequences would make every token of another tenant's few wait. While several tenants are active, a step
lasts at most twice as long as one in which each tenant has as many sequences, by its weight, as the tenant with the
fewest. Where more sequences cost no time, as mostly on a GPU, nothing is held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.fairness.block_accounting import BlockAccounting
from server.fairness.shares import is_background
from server.fairness.step_times import StepTimes

#: How much longer than with equal sequences a step may last.
_STRETCH: Final = 2.0
#: A tenant counts with one sequence for so long after its last: its next request finds short steps.
_ACTIVE_S: Final = 1.0


class RowShares:
    """The largest number of sequences of each tenant for the next step. The background has bounds of its own.

    Args:
        accounting: the running requests of all tenants.
    """

    def __init__(self, accounting: BlockAccounting) -> None:
        self.times = StepTimes()
        self._accounting = accounting
        self._seen_s: dict[str, float] = {}

    def caps(self) -> dict[str, int]:
        """The tenants that have more sequences than the next step shall compute, each with its number of them."""
        rows = self._rows()
        if len(rows) < 2 or max(rows.values()) < 2:
            return {}
        weights = {tenant: self._accounting.of(tenant).share.weight for tenant in rows}
        fewest = min(count / weights[tenant] for tenant, count in rows.items())
        equal = sum(_share(count, fewest * weights[tenant]) for tenant, count in rows.items())
        total, equal_s = sum(rows.values()), self.times.expected_s(equal)
        if equal == total or equal_s is None:
            return {}
        within = max(equal, self.times.rows_within(_STRETCH * equal_s, total))
        if within >= total:
            return {}
        level = fair_level(rows, weights, within)
        caps = {tenant: _share(count, level * weights[tenant]) for tenant, count in rows.items()}
        return {tenant: cap for tenant, cap in caps.items() if cap < rows[tenant]}

    def _rows(self) -> dict[str, int]:
        """Sequences of each tenant that is active or was a moment ago."""
        now_s = self._accounting.now_s()
        for tenant, _ in self._accounting.active():
            if not is_background(tenant):
                self._seen_s[tenant] = now_s
        self._seen_s = {tenant: at_s for tenant, at_s in self._seen_s.items() if now_s - at_s <= _ACTIVE_S}
        return {tenant: max(1, self._accounting.of(tenant).slots) for tenant in self._seen_s}


def fair_level(rows: Mapping[str, int], weights: Mapping[str, float], within: int) -> float:
    """The level with which `sum(min(rows, level * weight))` is `within` (weighted max-min fairness)."""
    left, weight_left = float(within), sum(weights.values())
    for tenant in sorted(rows, key=lambda name: rows[name] / weights[name]):
        level = left / weight_left
        if rows[tenant] > level * weights[tenant]:
            return level
        left -= rows[tenant]
        weight_left -= weights[tenant]
    return float("inf")


def _share(rows: int, fair: float) -> int:
    """So many of a tenant's sequences, at least one."""
    return max(1, int(min(rows, fair)))
