"""Eviction: which adapters are unloaded so that waiting requests get a slot, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container

from adapters.residency.slots import PendingHold, Phase, Slot
from adapters.residency.transfers import Transfers


class Eviction:
    """Frees slots for the queue; a slot with holders, or a pinned one, is never unloaded.

    Args:
        transfers: the table of slots.
        queue: the holds that wait for a slot.
        pins: engine ids of the pinned adapters.
        linger_s: how long a dismissed adapter stays loaded without holders.
    """

    def __init__(
        self, transfers: Transfers, queue: Collection[PendingHold], pins: Container[int], linger_s: float
    ) -> None:
        self._transfers = transfers
        self._slots = transfers.slots
        self._queue = queue
        self._pins = pins
        self._linger_s = linger_s

    def evict_idle(self) -> None:
        """Unload as many idle adapters as the queue lacks slots."""
        for _ in range(self._slots_wanted()):
            if idle := [slot for slot in self._candidates() if slot.holders == 0]:
                self._transfers.counts.evictions += 1
                self._transfers.unload(idle[0])

    def make_one_yield(self) -> None:
        """Let the least recently used adapter take no new holds if the queue lacks slots."""
        if self._slots_wanted() and (candidates := self._candidates()):
            candidates[0].yielding = True
            self.unload_if_leaving(candidates[0])

    def reopen(self) -> bool:
        """Let yielding slots take holds again when no request waits for a slot any more; whether there was one."""
        if any(pending.adapter.engine_id not in self._slots for pending in self._queue):
            return False
        yielding = [slot for slot in self._slots.values() if slot.yielding and slot.phase is Phase.RESIDENT]
        for slot in yielding:
            slot.yielding = False
        return bool(yielding)

    def unload_if_leaving(self, slot: Slot) -> None:
        """Unload a yielding or retiring adapter if it is idle."""
        mine = self._slots.get(slot.adapter.engine_id) is slot
        if mine and slot.is_leaving and slot.holders == 0 and slot.phase is Phase.RESIDENT:
            self._transfers.unload(slot)

    def unload_later(self, slot: Slot) -> None:
        """Unload a dismissed adapter after `linger_s` without holders."""
        if slot.dismissed and slot.holders == 0:
            loop = asyncio.get_running_loop()
            loop.call_later(self._linger_s, self._unload_if_dismissed, slot, slot.used_at_s)

    def _slots_wanted(self) -> int:
        """How many more slots must become free for the whole queue."""
        cold = {pending.adapter.engine_id for pending in self._queue} - self._slots.keys()
        return max(0, len(cold) - sum(slot.is_leaving for slot in self._slots.values()))

    def _candidates(self) -> list[Slot]:
        """Resident slots that may be freed, least recently used first."""
        resident = [slot for slot in self._slots.values() if slot.phase is Phase.RESIDENT]
        freeable = [s for s in resident if not s.is_leaving and s.adapter.engine_id not in self._pins]
        return sorted(freeable, key=lambda slot: slot.used_at_s)

    def _unload_if_dismissed(self, slot: Slot, used_at_s: float) -> None:
        untouched = slot.dismissed and slot.holders == 0 and slot.used_at_s == used_at_s
        mine = self._slots.get(slot.adapter.engine_id) is slot and slot.adapter.engine_id not in self._pins
        if untouched and mine and slot.phase is Phase.RESIDENT:
            self._transfers.unload(slot)
