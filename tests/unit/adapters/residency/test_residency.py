from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from adapters.errors import EngineGone, LoadFailed, PinLimit, ProbeFailed, ResidencyBusy, VersionRetired
from adapters.residency import Drift, Phase, Residency
from adapters.residency.slots import PendingHold, Slot
from tests.unit.adapters.residency.support import build, run
from tests.unit.adapters.residency.support import engine_adapter as a


async def hold_for(residency: Residency, engine_id: int, duration_s: float) -> None:
    async with residency.hold(a(engine_id)):
        await asyncio.sleep(duration_s)


def loop_s() -> float:
    return asyncio.get_running_loop().time()


def test_a_cold_adapter_is_loaded_once_for_all_who_ask() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        await asyncio.gather(*(hold_for(residency, 1, 1) for _ in range(32)))
        assert loader.calls == [("load", 1)]
        (slot,) = residency.snapshot().slots
        assert (slot.phase, slot.holders) == (Phase.RESIDENT, 0)

    run(scenario())


def test_a_warm_hold_does_not_wait_at_all() -> None:
    async def scenario() -> None:
        residency, _ = build(1)
        await hold_for(residency, 1, 0)
        holding = residency.hold(a(1)).__aenter__()
        with pytest.raises(StopIteration):
            holding.send(None)

    run(scenario())


def test_the_least_recently_used_idle_adapter_makes_room_before_the_load() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        for engine_id in (1, 2, 1):
            await hold_for(residency, engine_id, 0.1)
        async with residency.hold(a(1)), residency.hold(a(3)):
            assert loader.calls == [("load", 1), ("load", 2), ("unload", 2), ("load", 3)]
            assert loader.ids == {1, 3}
        assert residency.snapshot().counts.evictions == 1

    run(scenario())


def test_when_all_is_held_the_wait_is_bounded_and_the_error_tells_when_to_retry() -> None:
    async def scenario() -> None:
        residency, loader = build(1, wait_s=5.0)
        async with residency.hold(a(1)):
            started_s = loop_s()
            with pytest.raises(ResidencyBusy, match="All 1 adapter slots stayed in use for 5 s") as caught:
                await hold_for(residency, 2, 0)
            assert loop_s() - started_s == pytest.approx(5.0)
            assert caught.value.retry_after_s >= 1
            await hold_for(residency, 1, 0)  # it no longer yields
        snapshot = residency.snapshot()
        assert (snapshot.waiting, snapshot.counts.busy) == (0, 1)
        assert loader.calls == [("load", 1)]

    run(scenario())


def test_the_queue_is_first_come_first_served() -> None:
    async def scenario() -> None:
        residency, _ = build(1)
        order = []

        async def one(engine_id: int) -> None:
            await asyncio.sleep(engine_id / 100)
            async with residency.hold(a(engine_id)):
                order.append(engine_id)
                await asyncio.sleep(1)

        await asyncio.gather(*(one(engine_id) for engine_id in range(1, 7)))
        assert order == [1, 2, 3, 4, 5, 6]

    run(scenario())


def test_steady_traffic_on_one_adapter_does_not_starve_another() -> None:
    async def scenario() -> None:
        residency, _ = build(1, wait_s=10.0, patience_s=1.0)
        stop = False

        async def traffic(offset_s: float) -> None:
            await asyncio.sleep(offset_s)
            while not stop:
                await hold_for(residency, 1, 1.0)  # overlapping: never idle by itself

        steady = [asyncio.create_task(traffic(offset)) for offset in (0.0, 0.3, 0.6)]
        await asyncio.sleep(2)
        started_s = loop_s()
        await hold_for(residency, 2, 0.1)
        assert loop_s() - started_s < 3.0  # patience + the longest hold + unload + load
        stop = True
        await asyncio.gather(*steady)

    run(scenario())


def test_a_failed_load_frees_its_slot_cleans_the_engine_and_poisons_nobody() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        loader.refused = {1}
        outcomes = await asyncio.gather(
            *(hold_for(residency, engine_id, 0.1) for engine_id in (1, 2, 1, 3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [LoadFailed, type(None), LoadFailed, type(None)]
        assert loader.ids <= {2, 3} and len(residency.snapshot().slots) == 1
        assert residency.snapshot().counts.load_failures >= 1

    run(scenario())


def test_a_loader_that_breaks_is_told_as_a_failed_load_and_reported() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))

        async def broken(adapter: Any) -> None:
            raise ZeroDivisionError("/secret/path")

        loader.load = broken
        with pytest.raises(LoadFailed) as caught:
            await hold_for(residency, 1, 0)
        assert "secret" not in str(caught.value)
        assert isinstance(reports[0]["exception"], ZeroDivisionError)
        await asyncio.sleep(1)
        assert not residency.snapshot().slots

    run(scenario())


def test_pins_never_leave_and_one_slot_stays_free() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        await residency.pin(a(1))
        await residency.pin(a(1))
        with pytest.raises(PinLimit, match="1 of 2 slots are pinned"):
            await residency.pin(a(2))
        for engine_id in (2, 3, 4):
            await hold_for(residency, engine_id, 0.1)
            assert 1 in loader.ids
        residency.unpin(1)
        await hold_for(residency, 5, 0.1)
        await hold_for(residency, 6, 0.1)
        assert 1 not in loader.ids

    run(scenario())


def test_a_pin_that_fails_is_no_pin() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        loader.refused = {1}
        with pytest.raises(LoadFailed):
            await residency.pin(a(1))
        await residency.pin(a(2))
        with pytest.raises(PinLimit):
            await build(1)[0].pin(a(1))

    run(scenario())


def test_retiring_waits_for_the_last_holder_and_admits_no_new_one() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        streams = [asyncio.create_task(hold_for(residency, 1, 5)) for _ in range(32)]
        await asyncio.sleep(1)
        started_s = loop_s()
        retiring = asyncio.create_task(residency.retire(1))
        await asyncio.sleep(0)
        with pytest.raises(VersionRetired, match=r"Version acme/a1@1 is being retired"):
            await hold_for(residency, 1, 0)
        await retiring
        assert loop_s() - started_s > 4 and 1 not in loader.ids
        assert all(stream.done() and not stream.exception() for stream in streams)
        await residency.retire(1)
        await residency.retire(99)
        with pytest.raises(VersionRetired):
            await hold_for(residency, 99, 0)

    run(scenario())


def test_retiring_refuses_those_who_queue_for_it() -> None:
    async def scenario() -> None:
        residency, _ = build(1)
        async with residency.hold(a(1)):
            waiting = asyncio.create_task(hold_for(residency, 2, 0))
            await asyncio.sleep(0.1)
            await residency.retire(2)
            with pytest.raises(VersionRetired):
                await waiting

    run(scenario())


def test_a_cancelled_retirement_still_happens() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        async with residency.hold(a(1)):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await residency.retire(1)
        await asyncio.sleep(1)
        assert not loader.ids and not residency.snapshot().slots

    run(scenario())


def test_a_dismissed_adapter_leaves_after_a_moment_of_rest() -> None:
    async def scenario() -> None:
        residency, loader = build(2, linger_s=1.0)
        async with residency.hold(a(1)):
            residency.dismiss(1)
            await asyncio.sleep(3)
        await asyncio.sleep(0.6)
        await hold_for(residency, 1, 0.1)  # still asked for: stays
        await asyncio.sleep(0.6)
        assert 1 in loader.ids
        await asyncio.sleep(1)
        assert 1 not in loader.ids
        await hold_for(residency, 1, 0)
        residency.dismiss(1)
        residency.undo_dismiss(1)
        await asyncio.sleep(2)
        assert 1 in loader.ids

    run(scenario())


def test_after_an_engine_restart_what_is_held_or_pinned_is_loaded_again() -> None:
    async def scenario() -> None:
        residency, loader = build(4)
        await residency.pin(a(1))
        await hold_for(residency, 2, 0)
        async with residency.hold(a(3)):
            loader.gone = True
            dead = asyncio.create_task(hold_for(residency, 4, 0))
            with pytest.raises(EngineGone):
                await dead
            loader.gone, loader.ids = False, set()
            await residency.reset()
            assert loader.ids == {1, 3}
            await hold_for(residency, 2, 0)
        assert {slot.engine_id for slot in residency.snapshot().slots} == {1, 2, 3}

    run(scenario())


def test_who_waits_for_a_load_during_a_restart_gets_the_new_engines() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        loader.load_s = 1000.0
        waiting = asyncio.create_task(hold_for(residency, 1, 0))
        await asyncio.sleep(1)
        loader.load_s = 0.1
        await residency.reset()
        await waiting
        assert loader.ids == {1} and loop_s() < 2

    run(scenario())


def test_reconciling_mends_drift_and_counts_it() -> None:
    async def scenario() -> None:
        residency, loader = build(4)
        await residency.pin(a(1))
        await hold_for(residency, 2, 0)
        async with residency.hold(a(3)):
            assert not await residency.reconcile()
            loader.ids = {2, 77}
            drift = await residency.reconcile()
            assert drift == Drift(orphans=(77,), missing=(1, 3))
            assert drift
            await asyncio.sleep(1)
            assert loader.ids == {1, 2, 3}
            loader.ids.discard(2)
            assert (await residency.reconcile()).missing == (2,)
            assert {slot.engine_id for slot in residency.snapshot().slots} == {1, 3}
        assert not await residency.reconcile()
        counts = residency.snapshot().counts
        assert (counts.orphans, counts.missing) == (1, 3)

    run(scenario())


def test_an_unload_that_is_not_confirmed_keeps_its_slot_until_it_is() -> None:
    async def scenario() -> None:
        residency, loader = build(1, wait_s=2.0)
        await hold_for(residency, 1, 0)
        unload = loader.unload

        async def deaf(engine_id: int) -> None:
            raise EngineGone("no answer")

        loader.unload = deaf
        with pytest.raises(ResidencyBusy):
            await hold_for(residency, 2, 0)
        assert residency.snapshot().slots[0].phase is Phase.STUCK
        loader.unload = unload
        assert (await residency.reconcile()).stuck == (1,)
        await hold_for(residency, 2, 0)
        assert loader.ids == {2}

    run(scenario())


def test_reconciling_leaves_alone_what_moves_meanwhile() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        await hold_for(residency, 1, 0)
        asking = asyncio.create_task(residency.reconcile())
        await asyncio.sleep(0.01)
        loading = asyncio.create_task(hold_for(residency, 2, 0.2))
        assert not await asking
        await loading
        assert loader.calls == [("load", 1), ("load", 2)]

    run(scenario())


def test_a_cold_adapter_is_fetched_ahead_for_who_queues() -> None:
    """The unload that makes room begins with the request, not when its turn has come."""

    async def scenario() -> None:
        residency, loader = build(2)
        async with residency.hold(a(1)):
            async with residency.hold(a(2)):
                pass
            waiting = asyncio.create_task(hold_for(residency, 3, 0))
            await asyncio.sleep(0.001)
            assert loader.calls[-1] == ("unload", 2)
            await asyncio.sleep(0.051)
            assert loader.calls[-1] == ("load", 3)
            await waiting

    run(scenario())


def test_probe_loads_and_lets_go() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        loader.bad_probes = {2}
        await residency.probe(a(1))
        with pytest.raises(ProbeFailed):
            await residency.probe(a(2))
        assert all(slot.holders == 0 for slot in residency.snapshot().slots)

    run(scenario())


def test_closing_stops_what_still_runs() -> None:
    async def scenario() -> None:
        residency, loader = build(1)
        loader.load_s = 1000.0
        waiting = asyncio.create_task(hold_for(residency, 1, 0))
        await asyncio.sleep(1)
        await residency.aclose()
        with pytest.raises(EngineGone):
            await waiting
        assert not loader.busy

    run(scenario())


@pytest.mark.parametrize("steps", range(12))
def test_a_hold_cancelled_at_any_await_is_released(steps: int) -> None:
    async def scenario() -> None:
        residency, loader = build(1, wait_s=9.0)
        blocker = asyncio.create_task(hold_for(residency, 2, 0.5))
        await asyncio.sleep(0.2)
        victim = asyncio.create_task(hold_for(residency, 1, 0.2))
        times: list[Callable[[], Awaitable[None]]] = [lambda: asyncio.sleep(0)] * 3
        times += [lambda s=s: asyncio.sleep(s) for s in (0.1, 0.3, 0.4, 0.41, 0.45, 0.5, 0.55, 0.6, 0.7)]
        await times[steps]()
        victim.cancel()
        await asyncio.gather(victim, blocker, return_exceptions=True)
        await asyncio.sleep(1)
        snapshot = residency.snapshot()
        assert snapshot.waiting == 0 and all(slot.holders == 0 for slot in snapshot.slots)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(residency.hold(a(3)))
            assert loader.ids == {3}

    run(scenario())


def test_a_hold_cancelled_in_the_moment_it_is_granted_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        residency, _ = build(1)
        await hold_for(residency, 2, 0)
        victim = asyncio.create_task(hold_for(residency, 1, 0.2))
        grant = PendingHold.grant

        def grant_and_cancel(ticket: PendingHold, slot: Slot) -> None:
            grant(ticket, slot)
            victim.cancel()

        monkeypatch.setattr(PendingHold, "grant", grant_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await victim
        monkeypatch.undo()
        assert [slot.holders for slot in residency.snapshot().slots] == [0]

    run(scenario())


def test_whoever_gave_up_makes_nobody_leave() -> None:
    async def scenario() -> None:
        residency, loader = build(1, wait_s=2.0, patience_s=0.5)
        async with residency.hold(a(1)):
            with pytest.raises(ResidencyBusy):
                await hold_for(residency, 2, 0)
        await asyncio.sleep(5)
        assert loader.calls == [("load", 1)]

    run(scenario())


async def test_seconds_of_loads_that_succeed_are_observed() -> None:
    seconds: list[float] = []
    residency, loader = build(2, observe_load=seconds.append)
    loader.load_s = 0.02
    loader.refused.add(2)
    async with residency.hold(a(1)):
        pass
    with pytest.raises(LoadFailed):
        async with residency.hold(a(2)):
            pass
    async with residency.hold(a(1)):  # loaded already
        pass
    assert len(seconds) == 1 and 0.02 <= seconds[0] < 1
