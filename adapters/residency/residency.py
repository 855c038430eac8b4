"""Holds: an adapter is in the engine, and stays there, for as long as somebody holds it.

All changes of state are synchronous, so between two awaits everything is consistent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from adapters.errors import PinLimit, ResidencyBusy, VersionRetired
from adapters.models import EngineAdapter
from adapters.residency.loader import Loader
from adapters.residency.reconcile import mend
from adapters.residency.slots import Drift, Phase, ResidencySnapshot, Slot, SlotView, Ticket, view_slot
from adapters.residency.transfers import Transfers


class Residency:
    """At most `capacity` adapters in the engine.

    A hold waits at most `wait_s` for a slot. Whoever has waited `patience_s` makes the least recently used
    held adapter yield: it takes no new holds until it is idle and gives way. A dismissed adapter leaves
    after `linger_s` without holders.
    """

    def __init__(
        self,
        loader: Loader,
        capacity: int,
        *,
        wait_s: float = 30.0,
        patience_s: float = 1.0,
        linger_s: float = 1.0,
    ) -> None:
        assert capacity >= 1, capacity
        self.capacity = capacity
        self._loader = loader
        self._wait_s, self._patience_s, self._linger_s = wait_s, patience_s, linger_s
        self._transfers = Transfers(loader, self._changed)
        self._slots = self._transfers.slots
        self._counts = self._transfers.counts
        self._queue: dict[Ticket, None] = {}  # in order of arrival
        self._pins: dict[int, EngineAdapter] = {}
        self._retired: set[int] = set()

    @asynccontextmanager
    async def hold(self, adapter: EngineAdapter) -> AsyncIterator[EngineAdapter]:
        """Keep the adapter loaded until the block ends, however it ends.

        A cold one is fetched ahead: its load, or the unload that makes room for it, begins at this call,
        before the request is rendered, admitted or scheduled.
        Raises: ResidencyBusy: no slot within the wait; LoadFailed; VersionRetired.
        """
        slot = self._take(adapter) or await self._queue_for(adapter)
        try:
            while not slot.loaded.done():
                await asyncio.shield(slot.loaded)
            slot.loaded.result()
            yield adapter
        finally:
            self._release(slot)

    async def probe(self, adapter: EngineAdapter) -> None:
        """Load it if need be and let it answer once. Raises: as `hold`, and ProbeFailed."""
        async with self.hold(adapter):
            await self._loader.probe(adapter)

    async def pin(self, adapter: EngineAdapter) -> None:
        """Load it and never let it leave. Raises: PinLimit: one slot must stay free; as `hold`."""
        known = adapter.engine_id in self._pins
        if not known and len(self._pins) >= self.capacity - 1:
            raise PinLimit(
                f"{len(self._pins)} of {self.capacity} slots are pinned and one must stay free; "
                "unpin a version or restart with a larger --max-cpu-loras"
            )
        self._pins[adapter.engine_id] = adapter
        try:
            async with self.hold(adapter):
                pass
        except BaseException:  # whoever is cancelled while it loads has pinned nothing
            if not known:
                self.unpin(adapter.engine_id)
            raise

    def unpin(self, engine_id: int) -> None:
        """Let it leave again when its place is needed."""
        self._pins.pop(engine_id, None)
        self._serve_queue()

    def dismiss(self, engine_id: int) -> None:
        """Unload it once it has been idle for a moment; a later hold loads it again."""
        if slot := self._slots.get(engine_id):
            slot.dismissed = True
            self._leave_later(slot)

    def keep(self, engine_id: int) -> None:
        """Undo `dismiss`."""
        if slot := self._slots.get(engine_id):
            slot.dismissed = False

    async def retire(self, engine_id: int) -> None:
        """Give out no more holds, wait for the last one to end, unload for good.

        When this is cancelled it still happens; there is just nobody waiting for it.
        """
        self._retired.add(engine_id)
        self._pins.pop(engine_id, None)
        for ticket in [ticket for ticket in self._queue if ticket.adapter.engine_id == engine_id]:
            del self._queue[ticket]
            ticket.refuse(_retired(ticket.adapter))
        slot = self._slots.get(engine_id)
        if slot is not None:
            slot.retiring = True
            self._leave_if_idle(slot)
            await slot.gone.wait()

    async def reset(self) -> None:
        """The engine was restarted and holds nothing: load again what is held or pinned, forget the rest."""
        again = []
        for slot in list(self._slots.values()):
            wanted = slot.holders or slot.adapter.engine_id in self._pins
            if slot.phase in (Phase.LOADING, Phase.RESIDENT) and wanted and not slot.retiring:
                slot.yielding = False
                self._transfers.load(slot)
                again.append(slot.loaded)
            else:
                self._transfers.drop(slot)
        self._serve_queue()
        if again:
            await asyncio.wait(again)

    async def reconcile(self) -> Drift:
        """Compare with what the engine says it holds; mend and count the differences. Raises: EngineGone."""
        drift = await mend(self._transfers, self._pins)
        for engine_id, adapter in self._pins.items():
            if engine_id not in self._slots and len(self._slots) < self.capacity:
                self._transfers.open(adapter)
        self._serve_queue()
        return drift

    def phase(self, engine_id: int) -> Phase | None:
        """What the engine is doing with it; None: it has no slot."""
        slot = self._slots.get(engine_id)
        return None if slot is None else slot.phase

    def view(self, engine_id: int) -> SlotView | None:
        """Its slot at this moment; None: it has none."""
        slot = self._slots.get(engine_id)
        return None if slot is None else view_slot(slot, engine_id in self._pins)

    def snapshot(self) -> ResidencySnapshot:
        """What is where, for metrics and the admin API."""
        views = tuple(view_slot(slot, slot.adapter.engine_id in self._pins) for slot in self._slots.values())
        return ResidencySnapshot(self.capacity, len(self._queue), views, replace(self._counts))

    async def aclose(self) -> None:
        """Stop the loads and unloads that still run: the engine is going away."""
        tasks = [slot.task for slot in self._slots.values() if slot.task]
        for slot in list(self._slots.values()):
            self._transfers.drop(slot)
        await asyncio.gather(*tasks, return_exceptions=True)

    # Taking and giving back

    def _take(self, adapter: EngineAdapter) -> Slot | None:
        if adapter.engine_id in self._retired:
            raise _retired(adapter)
        slot = self._slots.get(adapter.engine_id)
        if slot is None or not slot.is_open:
            return None
        slot.holders += 1
        slot.used_at_s = time.monotonic()
        return slot

    async def _queue_for(self, adapter: EngineAdapter) -> Slot:
        ticket = Ticket(adapter, asyncio.get_running_loop().create_future())
        self._queue[ticket] = None
        try:
            self._serve_queue()
            self._counts.waits += ticket.slot is None
            async with asyncio.timeout(self._wait_s):
                while not ticket.granted.done():
                    await asyncio.wait([ticket.granted], timeout=self._patience_s)
                    self._make_one_yield()
            return ticket.granted.result()
        except BaseException as error:  # a cancellation must give back what it may have been granted
            if ticket.slot is not None:  # granted, but cancelled before we woke up
                self._release(ticket.slot)
            if isinstance(error, TimeoutError):
                self._counts.busy += 1
                raise ResidencyBusy(self.capacity, self._wait_s, max(1.0, self._patience_s)) from None
            raise
        finally:
            if ticket in self._queue:
                del self._queue[ticket]
                self._serve_queue()  # what yielded for this ticket alone may open again

    def _release(self, slot: Slot) -> None:
        slot.holders -= 1
        assert slot.holders >= 0, slot
        slot.used_at_s = time.monotonic()
        if slot.holders == 0:
            self._changed(slot)

    def _changed(self, slot: Slot) -> None:
        self._leave_if_idle(slot)
        self._leave_later(slot)
        self._serve_queue()

    def _serve_queue(self) -> None:
        """Give out every slot that can be given, first come first served, and make room for the rest."""
        for ticket in list(self._queue):
            slot = self._take(ticket.adapter)
            if (
                slot is None
                and ticket.adapter.engine_id not in self._slots
                and len(self._slots) < self.capacity
            ):
                slot = self._transfers.open(ticket.adapter)
                slot.holders += 1
            if slot is not None:
                del self._queue[ticket]
                ticket.grant(slot)
        for _ in range(self._places_wanted()):
            if idle := [slot for slot in self._candidates() if slot.holders == 0]:
                self._counts.evictions += 1
                self._transfers.unload(idle[0])
        self._reopen()

    # Making room

    def _places_wanted(self) -> int:
        """How many more slots must become free for everybody in the queue."""
        cold = {ticket.adapter.engine_id for ticket in self._queue} - self._slots.keys()
        return max(0, len(cold) - sum(slot.is_leaving for slot in self._slots.values()))

    def _candidates(self) -> list[Slot]:
        """Resident slots that may be told to go, least recently used first."""
        resident = [slot for slot in self._slots.values() if slot.phase is Phase.RESIDENT]
        free_to_go = [s for s in resident if not s.is_leaving and s.adapter.engine_id not in self._pins]
        return sorted(free_to_go, key=lambda slot: slot.used_at_s)

    def _make_one_yield(self) -> None:
        if self._places_wanted() and (candidates := self._candidates()):
            candidates[0].yielding = True
            self._leave_if_idle(candidates[0])

    def _reopen(self) -> None:
        """End the yielding when nobody waits for a place any more."""
        if any(ticket.adapter.engine_id not in self._slots for ticket in self._queue):
            return
        yielding = [slot for slot in self._slots.values() if slot.yielding and slot.phase is Phase.RESIDENT]
        for slot in yielding:
            slot.yielding = False
        if yielding and self._queue:
            self._serve_queue()

    def _leave_if_idle(self, slot: Slot) -> None:
        mine = self._slots.get(slot.adapter.engine_id) is slot
        if mine and slot.is_leaving and slot.holders == 0 and slot.phase is Phase.RESIDENT:
            self._transfers.unload(slot)

    def _leave_later(self, slot: Slot) -> None:
        if slot.dismissed and slot.holders == 0:
            loop = asyncio.get_running_loop()
            loop.call_later(self._linger_s, self._leave_if_dismissed, slot, slot.used_at_s)

    def _leave_if_dismissed(self, slot: Slot, used_at_s: float) -> None:
        untouched = slot.dismissed and slot.holders == 0 and slot.used_at_s == used_at_s
        mine = self._slots.get(slot.adapter.engine_id) is slot and slot.adapter.engine_id not in self._pins
        if untouched and mine and slot.phase is Phase.RESIDENT:
            self._transfers.unload(slot)


def _retired(adapter: EngineAdapter) -> VersionRetired:
    name = adapter.engine_name.partition("#")[0]
    return VersionRetired(f"version {name} is being retired; resolve the model name again")
