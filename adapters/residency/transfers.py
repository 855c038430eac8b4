"""Loads and unloads, each in its own task, so that a caller's cancellation does not interrupt one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from adapters.errors import AdapterError, EngineGone, LoadFailed
from adapters.models import EngineAdapter
from adapters.residency.loader import Loader
from adapters.residency.slots import Phase, ResidencyCounts, Slot


class Transfers:
    """The table of slots, and the loads and unloads that change it.

    Args:
        current_loader: returns the engine that runs now. Raises: EngineGone.
        changed: called, synchronously, with a slot whose load or unload has ended.
        observe_load: called with the seconds of each load that succeeded.
    """

    def __init__(
        self,
        current_loader: Callable[[], Loader],
        changed: Callable[[Slot], None],
        observe_load: Callable[[float], None],
    ) -> None:
        self._current_loader = current_loader
        self._observe_load = observe_load
        self.slots: dict[int, Slot] = {}
        self.counts = ResidencyCounts()
        self._changed = changed

    def open(self, adapter: EngineAdapter) -> Slot:
        """Add a slot for an adapter that has none, and start its load."""
        slot = self._add(adapter, Phase.LOADING)
        self.load(slot)
        return slot

    def load(self, slot: Slot) -> None:
        """Start a first or repeated load; its result is in `slot.loaded`."""
        if slot.loaded.done():
            slot.loaded = asyncio.get_running_loop().create_future()
        self._start(slot, Phase.LOADING, lambda engine: engine.load(slot.adapter), self._load_ended)

    def unload(self, slot: Slot) -> None:
        """Start an unload; the slot is dropped when the engine has confirmed it."""
        self._start(
            slot, Phase.UNLOADING, lambda engine: engine.unload(slot.adapter.engine_id), self._unload_ended
        )

    def unload_unknown(self, adapter: EngineAdapter) -> None:
        """Unload an adapter without a slot; it takes one meanwhile, so that its id is not loaded again."""
        self.unload(self._add(adapter, Phase.UNLOADING))

    def drop(self, slot: Slot) -> None:
        """Remove a slot at once and cancel its load or unload."""
        if self.slots.get(slot.adapter.engine_id) is slot:
            del self.slots[slot.adapter.engine_id]
        if slot.task is not None:
            slot.task.cancel()
            slot.task = None
        if not slot.loaded.done():
            _fail(slot.loaded, EngineGone("The engine stopped during the load; try again."))
        slot.gone.set()

    async def _run(self, work: Callable[[Loader], Awaitable[None]]) -> None:
        await work(self._current_loader())

    def _add(self, adapter: EngineAdapter, phase: Phase) -> Slot:
        assert adapter.engine_id not in self.slots, adapter
        slot = Slot(adapter, phase, asyncio.get_running_loop().create_future())
        self.slots[adapter.engine_id] = slot
        return slot

    def _start(
        self,
        slot: Slot,
        phase: Phase,
        work: Callable[[Loader], Awaitable[None]],
        ended: Callable[[Slot, float, asyncio.Task[None]], None],
    ) -> None:
        if slot.task is not None:
            slot.task.cancel()
        slot.phase = phase
        slot.task = asyncio.create_task(self._run(work), name=f"{phase} {slot.adapter.engine_name}")
        slot.task.add_done_callback(partial(ended, slot, time.monotonic()))

    def _load_ended(self, slot: Slot, started_s: float, task: asyncio.Task[None]) -> None:
        error = _failure(task)
        if slot.task is not task:  # dropped, or started again after a reset
            return
        slot.task = None
        self.counts.loads += 1
        seconds = time.monotonic() - started_s
        self.counts.load_s += seconds
        if error is None:
            self._observe_load(seconds)
            slot.phase = Phase.RESIDENT
            slot.loaded.set_result(None)
            self._changed(slot)
        else:
            self.counts.load_failures += 1
            _fail(slot.loaded, error)
            if task.cancelled() or isinstance(error, EngineGone):
                self.drop(slot)
                self._changed(slot)
            else:
                self.unload(slot)  # NOTE: vLLM may have registered a part of it, which must not stay

    def _unload_ended(self, slot: Slot, started_s: float, task: asyncio.Task[None]) -> None:
        error = _failure(task)
        if slot.task is not task:
            return
        slot.task = None
        if error is None:
            self.counts.unloads += 1
            self.drop(slot)
        else:
            self.counts.unload_failures += 1
            slot.phase = Phase.STUCK
        self._changed(slot)


def _failure(task: asyncio.Task[None]) -> AdapterError | None:
    """Why a transfer failed; an exception that no loader should raise also goes to the event loop's handler."""
    if task.cancelled():
        return LoadFailed("The load was interrupted; try again.")
    error = task.exception()
    if error is None or isinstance(error, AdapterError):
        return error
    report = {"message": f"The task {task.get_name()!r} failed.", "exception": error, "task": task}
    task.get_loop().call_exception_handler(report)
    return LoadFailed("The engine could not load the adapter; the server's log has the cause.")


def _fail(future: asyncio.Future[None], error: AdapterError) -> None:
    future.set_exception(error)
    future.exception()  # marks it as retrieved: there may be no holder left to await it
