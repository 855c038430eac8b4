"""How many sequences of each tenant one step computes.

All sequences of a step wait for the whole step, and on a CPU a step lasts longer the more of them it has. So a tenant
with many sequences would make every token of another tenant's few wait. While several tenants are active, a step
lasts at most twice as long as one in which each tenant has as many sequences, by its weight, as the tenant with the
fewest. Where more sequences cost no time, as mostly on a GPU, nothing is held back, nor is what a guarantee covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.shares import is_background
from server.fairness.step_times import StepTimes
from server.fairness.waiting_queue import WaitingQueue

#: How much longer than with equal sequences a step may last.
_STRETCH: Final = 2.0
#: A tenant counts with one sequence for so long after its last: its next request finds short steps.
_ACTIVE_S: Final = 1.0
#: The caps hold for so long while the same tenants are active with nearly as many sequences in all.
_HOLD_S: Final = 0.1
#: So many times the change of all sequences is less than their number then.
_NEARLY: Final = 16


class RowShares:
    """The largest number of sequences of each tenant in the present step. The background has bounds of its own.

    Args:
        queue: the waiting requests of all tenants.
        accounting: their running requests.
    """

    __slots__ = (
        "_accounting",
        "_active",
        "_all_rows",
        "_changes",
        "_fewest",
        "_left_s",
        "_queue",
        "_set_s",
        "caps",
        "times",
    )

    def __init__(self, queue: WaitingQueue, accounting: BlockAccounting) -> None:
        self.times = StepTimes()
        self.caps: dict[str, int] = {}
        """Of tenants that have more sequences, running and waiting, than their part of the step."""
        self._queue = queue
        self._accounting = accounting
        self._left_s: dict[str, float] = {}
        """When tenants that had been active were so no more."""
        self._active: set[str] = set()
        self._changes = -1  # of the running tenants, when `_active` was set
        self._fewest = 1  # rows with one sequence of each active tenant
        self._all_rows = 0
        self._set_s = -_HOLD_S

    def begin_step(self) -> None:
        """Set `caps` for this step.

        NOTE: with 64 tenants that costs 5 % of a step of vLLM's scheduler, so it is done when something has changed.
        """
        is_same = not self._note_tenants()
        all_rows = self._accounting.slots + len(self._queue)
        if self._lasts_no_longer(all_rows):
            self.caps, self._all_rows = {}, 0
            return
        now_s = self._accounting.now_s()
        is_near = abs(all_rows - self._all_rows) * _NEARLY < self._all_rows
        if is_same and is_near and now_s - self._set_s < _HOLD_S:
            return
        rows = self._rows(now_s)
        self._all_rows, self._set_s = all_rows, now_s
        self.caps = self._caps_of(rows) if len(rows) > 1 and max(rows.values()) > 1 else {}

    def is_full(self, tenant: str) -> bool:
        """Whether no more of the tenant's requests may start in this step."""
        cap = self.caps.get(tenant) if self.caps else None
        return cap is not None and self._accounting.of(tenant).slots >= cap

    def _note_tenants(self) -> bool:
        """Note who runs and waits; returns whether these are other tenants than in the last step."""
        running, waiting = self._accounting.active_tenants(), self._queue.tenants()
        are_same_running = self._changes == self._accounting.changes and len(self._active) == len(running)
        if are_same_running and self._active.issuperset(waiting):
            return False
        self._changes, before = self._accounting.changes, self._active
        self._active = {*running, *waiting}
        if self._active == before:
            return False
        now_s = self._accounting.now_s()
        recent = {tenant: at_s for tenant, at_s in self._left_s.items() if now_s - at_s <= _ACTIVE_S}
        self._left_s = recent | dict.fromkeys(before - self._active, now_s)
        self._fewest = max(1, sum(not is_background(tenant) for tenant in self._active))
        return True

    def _lasts_no_longer(self, all_rows: int) -> bool:
        """Whether a step with all sequences lasts at most `_STRETCH` times one with a sequence of each tenant."""
        all_s, fewest_s = self.times.expected_s(all_rows), self.times.expected_s(self._fewest)
        return all_s is None or fewest_s is None or all_s <= _STRETCH * fewest_s

    def _rows(self, now_s: float) -> dict[str, int]:
        """Sequences, running and waiting, of each tenant that is active or was a moment ago."""
        rows = self._accounting.slots_by_tenant()
        for tenant in self._queue.tenants():
            rows[tenant] = rows.get(tenant, 0) + self._queue.count(tenant)
        for tenant, at_s in self._left_s.items():
            if now_s - at_s <= _ACTIVE_S:
                rows.setdefault(tenant, 1)
        return {tenant: count for tenant, count in rows.items() if not is_background(tenant)}

    def _caps_of(self, rows: dict[str, int]) -> dict[str, int]:
        shares = {tenant: self._accounting.of(tenant).share for tenant in rows}
        fewest = min(count / shares[tenant].weight for tenant, count in rows.items())
        equal = sum(_part(count, fewest * shares[tenant].weight) for tenant, count in rows.items())
        most = min(sum(rows.values()), self._accounting.capacity.max_num_seqs)
        equal_s = self.times.expected_s(equal)
        if equal >= most or equal_s is None:
            return {}
        within = max(equal, self.times.rows_within(_STRETCH * equal_s, most))
        if within >= most:
            return {}
        level = fair_level(rows, {tenant: share.weight for tenant, share in shares.items()}, within)
        guaranteed = self._accounting.capacity.guaranteed_slots
        caps = {
            t: max(_part(rows[t], level * share.weight), guaranteed(share)) for t, share in shares.items()
        }
        return {tenant: cap for tenant, cap in caps.items() if cap < rows[tenant]}


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


def _part(rows: int, fair: float) -> int:
    """So many of a tenant's sequences, at least one."""
    return max(1, int(min(rows, fair)))
