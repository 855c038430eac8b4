"""Holds: an adapter stays loaded in the engine for as long as a request holds it.

All changes of state are synchronous, so the state is consistent at every await.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from adapters.errors import PinLimit, ResidencyBusy, VersionRetired
from adapters.models import EngineAdapter
from adapters.residency.eviction import Eviction
from adapters.residency.loader import Loader
from adapters.residency.reconcile import reconcile
from adapters.residency.slots import Drift, PendingHold, Phase, ResidencySnapshot, Slot, SlotView, view_slot
from adapters.residency.transfers import Transfers


class Residency:
    """At most `capacity` adapters in the engine.

    A hold waits at most `wait_s` for a slot. A request that has waited `patience_s` makes the least recently used
    held adapter yield: that one takes no new holds and is unloaded once it is idle. A dismissed adapter is unloaded
    after `linger_s` without holders.

    Args:
        current_loader: returns the engine that runs now. Raises: EngineGone.
        capacity: number of slots.
        wait_s, patience_s, linger_s: see above.
        observe_load: called with the seconds of each load that succeeded.
    """

    def __init__(
        self,
        current_loader: Callable[[], Loader],
        capacity: int,
        *,
        wait_s: float = 30.0,
        patience_s: float = 1.0,
        linger_s: float = 1.0,
        observe_load: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        assert capacity >= 1, capacity
        self.capacity = capacity
        self._current_loader = current_loader
        self._wait_s, self._patience_s = wait_s, patience_s
        self._transfers = Transfers(current_loader, self._changed, observe_load)
        self._slots = self._transfers.slots
        self._counts = self._transfers.counts
        self._queue: dict[PendingHold, None] = {}  # in order of arrival
        self._pins: dict[int, EngineAdapter] = {}
        self._eviction = Eviction(self._transfers, self._queue.keys(), self._pins, linger_s)
        self._retired: set[int] = set()

    @asynccontextmanager
    async def hold(self, adapter: EngineAdapter) -> AsyncIterator[EngineAdapter]:
        """Keep the adapter loaded until the block ends, however it ends.

        Its load, or the unload that frees a slot for it, begins at this call, before the request is admitted.
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
        """Load the adapter if need be and let it answer once. Raises: as `hold`, and ProbeFailed."""
        async with self.hold(adapter):
            await self._current_loader().probe(adapter)

    async def pin(self, adapter: EngineAdapter) -> None:
        """Load the adapter and never unload it. Raises: PinLimit: one slot must stay free; as `hold`."""
        if not (known := adapter.engine_id in self._pins) and len(self._pins) >= self.capacity - 1:
            raise PinLimit(
                f"{len(self._pins)} of {self.capacity} slots are pinned and one must stay free; "
                "unpin a version or restart with a larger --max-cpu-loras."
            )
        self._pins[adapter.engine_id] = adapter
        try:
            async with self.hold(adapter):
                pass
        except BaseException:  # also when the caller is cancelled during the load
            if not known:
                self.unpin(adapter.engine_id)
            raise

    @property
    def pinned(self) -> frozenset[int]:
        """The engine ids of pinned adapters, also of those that are being loaded."""
        return frozenset(self._pins)

    def unpin(self, engine_id: int) -> None:
        """Let the adapter be unloaded again when its slot is needed."""
        self._pins.pop(engine_id, None)
        self._serve_queue()

    def dismiss(self, engine_id: int) -> None:
        """Unload the adapter once it has been idle for `linger_s`; a later hold loads it again."""
        if slot := self._slots.get(engine_id):
            slot.dismissed = True
            self._eviction.unload_later(slot)

    def undo_dismiss(self, engine_id: int) -> None:
        """Keep the adapter loaded after all."""
        if slot := self._slots.get(engine_id):
            slot.dismissed = False

    async def retire(self, engine_id: int, *, forget: bool = False) -> None:
        """Refuse new holds, wait for the last one to end, and unload the adapter for good.

        A cancellation ends only the wait; the adapter is still unloaded. `forget`: nobody can ask for this id again.
        """
        self._retired.add(engine_id)
        self._pins.pop(engine_id, None)
        for pending in [pending for pending in self._queue if pending.adapter.engine_id == engine_id]:
            del self._queue[pending]
            pending.refuse(_retired(pending.adapter))
        slot = self._slots.get(engine_id)
        if slot is not None:
            slot.retiring = True
            self._eviction.unload_if_leaving(slot)
            await slot.gone.wait()
        if forget:
            self._retired.discard(engine_id)

    async def reset(self) -> None:
        """After a restart of the engine, which is empty then: reload held and pinned adapters, drop the others."""
        reloads = []
        for slot in list(self._slots.values()):
            wanted = slot.holders or slot.adapter.engine_id in self._pins
            if slot.phase in (Phase.LOADING, Phase.RESIDENT) and wanted and not slot.retiring:
                slot.yielding = False
                self._transfers.load(slot)
                reloads.append(slot.loaded)
            else:
                self._transfers.drop(slot)
        self._serve_queue()
        if reloads:
            await asyncio.wait(reloads)

    async def reconcile(self) -> Drift:
        """Compare the slots with the engine's own list; repair and count the differences. Raises: EngineGone."""
        drift = await reconcile(self._transfers, self._current_loader(), self._pins)
        for engine_id, adapter in self._pins.items():
            if engine_id not in self._slots and len(self._slots) < self.capacity:
                self._transfers.open(adapter)
        self._serve_queue()
        return drift

    def phase(self, engine_id: int) -> Phase | None:
        """What the engine is doing with the adapter; None: it has no slot."""
        slot = self._slots.get(engine_id)
        return None if slot is None else slot.phase

    def view(self, engine_id: int) -> SlotView | None:
        """The adapter's slot at this moment; None: it has none."""
        slot = self._slots.get(engine_id)
        return None if slot is None else view_slot(slot, engine_id in self._pins)

    def snapshot(self) -> ResidencySnapshot:
        """All slots at this moment, for metrics and the admin API."""
        views = tuple(view_slot(slot, slot.adapter.engine_id in self._pins) for slot in self._slots.values())
        waiting_for = tuple(pending.adapter.engine_name for pending in self._queue)
        return ResidencySnapshot(self.capacity, waiting_for, views, replace(self._counts))

    async def aclose(self) -> None:
        """Cancel the loads and unloads that still run, because the engine stops."""
        tasks = [slot.task for slot in self._slots.values() if slot.task]
        for slot in list(self._slots.values()):
            self._transfers.drop(slot)
        await asyncio.gather(*tasks, return_exceptions=True)

    # Holds

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
        pending = PendingHold(adapter, asyncio.get_running_loop().create_future())
        self._queue[pending] = None
        try:
            self._serve_queue()
            self._counts.waits += pending.slot is None
            async with asyncio.timeout(self._wait_s):
                while not pending.granted.done():
                    await asyncio.wait([pending.granted], timeout=self._patience_s)
                    self._eviction.make_one_yield()
            return pending.granted.result()
        except BaseException as error:  # a cancellation, too, must release a slot that was granted
            if pending.slot is not None:  # granted, but cancelled before this task ran again
                self._release(pending.slot)
            if isinstance(error, TimeoutError):
                self._counts.busy += 1
                raise ResidencyBusy(self.capacity, self._wait_s, max(1.0, self._patience_s)) from None
            raise
        finally:
            if pending in self._queue:
                del self._queue[pending]
                self._serve_queue()  # slots that yielded for this request alone may open again

    def _release(self, slot: Slot) -> None:
        slot.holders -= 1
        assert slot.holders >= 0, slot
        slot.used_at_s = time.monotonic()
        if slot.holders == 0:
            self._changed(slot)

    def _changed(self, slot: Slot) -> None:
        self._eviction.unload_if_leaving(slot)
        self._eviction.unload_later(slot)
        self._serve_queue()

    def _serve_queue(self) -> None:
        """Grant every slot that can be granted, first come, first served, and free slots for the rest."""
        for pending in list(self._queue):
            slot = self._take(pending.adapter)
            if (
                slot is None
                and pending.adapter.engine_id not in self._slots
                and len(self._slots) < self.capacity
            ):
                slot = self._transfers.open(pending.adapter)
                slot.holders += 1
            if slot is not None:
                del self._queue[pending]
                pending.grant(slot)
        self._eviction.evict_idle()
        if self._eviction.reopen() and self._queue:
            self._serve_queue()


def _retired(adapter: EngineAdapter) -> VersionRetired:
    name = adapter.engine_name.partition("#")[0]
    return VersionRetired(f"Version {name} is being retired; resolve the model name again.")
