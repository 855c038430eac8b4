"""Whatever happens in whatever order: holds hold, nothing leaks, nothing hangs, the engine is never overfull."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from example_counts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterError, EngineGone, LoadFailed, PinLimit, ResidencyBusy, VersionRetired
from adapters.residency import Residency
from tests.unit.adapters.residency.support import CheckingLoader, build, engine_adapter, run

IDS = range(1, 7)
MOMENTS = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.11, 0.15, 0.3, 0.5, 1.0, 1.5, 2.5])


@dataclass(frozen=True)
class Visit:
    """A request that holds an adapter for a while and may be cancelled meanwhile."""

    engine_id: int
    at_s: float
    for_s: float
    cancelled_after_s: float | None


@dataclass(frozen=True)
class Event:
    kind: str
    engine_id: int
    at_s: float


VISITS = st.lists(
    st.builds(Visit, st.sampled_from(IDS), MOMENTS, MOMENTS, st.none() | MOMENTS), min_size=1, max_size=25
)
KINDS = [
    "pin",
    "unpin",
    "dismiss",
    "undo_dismiss",
    "retire",
    "reconcile",
    "lose",
    "orphan",
    "restart",
    "refuse",
]
EVENTS = st.lists(st.builds(Event, st.sampled_from(KINDS), st.sampled_from(IDS), MOMENTS), max_size=12)


class World:
    def __init__(self, capacity: int) -> None:
        self.residency: Residency
        self.loader: CheckingLoader
        self.residency, self.loader = build(capacity, wait_s=4.0, patience_s=0.2, linger_s=0.3)
        self.retired: set[int] = set()
        self.disturbed_s = -1.0  # when the engine last lost something behind our back

    async def visit(self, visit: Visit) -> None:
        await asyncio.sleep(visit.at_s)
        try:
            async with self.residency.hold(engine_adapter(visit.engine_id)):
                since_s = now_s()
                self.check_loaded(visit.engine_id, since_s)
                await asyncio.sleep(visit.for_s)
                self.check_loaded(visit.engine_id, since_s)
        except VersionRetired:
            assert visit.engine_id in self.retired
        except (ResidencyBusy, LoadFailed):
            pass

    def check_loaded(self, engine_id: int, since_s: float) -> None:
        assert engine_id in self.loader.ids or self.disturbed_s >= since_s - 1.0

    async def happen(self, event: Event) -> None:
        await asyncio.sleep(event.at_s)
        adapter = engine_adapter(event.engine_id)
        try:
            if event.kind == "retire":
                self.retired.add(event.engine_id)
                await self.residency.retire(event.engine_id)
            elif event.kind == "pin":
                await self.residency.pin(adapter)
            elif event.kind == "reconcile":
                await self.residency.reconcile()
            elif event.kind in ("unpin", "dismiss", "undo_dismiss"):
                getattr(self.residency, event.kind)(event.engine_id)
            else:
                await self.disturb(event)
        except (PinLimit, ResidencyBusy, LoadFailed, VersionRetired):
            pass

    async def disturb(self, event: Event) -> None:
        self.disturbed_s = now_s()
        if event.kind == "lose":
            self.loader.ids.discard(event.engine_id)
        elif event.kind == "orphan" and len(self.loader.ids) < self.loader.capacity:
            self.loader.ids.add(100 + event.engine_id)
        elif event.kind == "refuse":
            self.loader.refused ^= {event.engine_id}
        elif event.kind == "restart":
            self.loader.gone = True
            await asyncio.sleep(0.2)
            self.loader.gone, self.loader.ids = False, set()
            self.disturbed_s = now_s()
            await self.residency.reset()
        await self.residency.reconcile()
        # As the server does, which compares again and again: what was lost while its load was being confirmed
        # counts as moving, and is left to the next look.
        await asyncio.sleep(0.5)
        await self.residency.reconcile()


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def play(capacity: int, visits: list[Visit], events: list[Event]) -> None:
    world = World(capacity)
    world.loader.capacity = capacity + 8 if any(event.kind == "orphan" for event in events) else capacity
    visitors = [asyncio.create_task(world.visit(visit)) for visit in visits]
    happenings = [asyncio.create_task(world.happen(event)) for event in events]
    loop = asyncio.get_running_loop()
    for visitor, visit in zip(visitors, visits, strict=True):
        if visit.cancelled_after_s is not None:
            loop.call_later(visit.at_s + visit.cancelled_after_s, visitor.cancel)
    outcomes = await asyncio.gather(*visitors, *happenings, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(
            outcome, asyncio.CancelledError | EngineGone
        ):
            raise outcome
    await settle(world, capacity)


async def settle(world: World, capacity: int) -> None:
    """Idle: no holds and no queue, the engine agrees with the slots, and every adapter can be held again."""
    await asyncio.sleep(2)
    await world.residency.reconcile()
    await asyncio.sleep(2)
    snapshot = world.residency.snapshot()
    assert snapshot.waiting == 0 and all(slot.holders == 0 for slot in snapshot.slots), snapshot
    assert {slot.engine_id for slot in snapshot.slots} == world.loader.ids, snapshot
    assert len(world.loader.ids) <= capacity and not world.loader.ids & world.retired
    assert sum(slot.pinned for slot in snapshot.slots) <= max(0, capacity - 1)
    world.loader.refused = set()
    for engine_id in set(IDS) - world.retired:
        async with world.residency.hold(engine_adapter(engine_id)):
            assert engine_id in world.loader.ids
    await world.residency.aclose()


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 4), VISITS, st.just([]))
def test_visits_and_cancellations(capacity: int, visits: list[Visit], events: list[Any]) -> None:
    run(play(capacity, visits, events))


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 4), VISITS, EVENTS)
def test_visits_cancellations_and_everything_else(
    capacity: int, visits: list[Visit], events: list[Event]
) -> None:
    try:
        run(play(capacity, visits, events))
    except AdapterError as error:
        raise AssertionError(f"leaked {error!r}") from error
