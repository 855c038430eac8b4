"""Slices of long work wait for a quiet event loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from weakref import WeakKeyDictionary

import pytest

from server.request import event_loop
from server.request.event_loop import LoopTurns, pause


@pytest.fixture(autouse=True)
def _nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_slices", WeakKeyDictionary())


class Turns:
    """Counts the turns of the event loop while it is entered."""

    def __init__(self) -> None:
        self.number = 0
        self._over = False

    def __enter__(self) -> Turns:
        asyncio.get_running_loop().call_soon(self._next)
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True

    def _next(self) -> None:
        self.number += 1
        if not self._over:
            asyncio.get_running_loop().call_soon(self._next)


async def keep_busy(turns: list[int], seconds: float) -> None:
    """Work so long in each turn of the loop, and count them."""
    while True:
        time.sleep(seconds)
        turns[0] += 1
        await asyncio.sleep(0)


async def test_one_slice_at_a_time_in_the_order_of_arrival() -> None:
    slices: list[tuple[int, str]] = []

    async def work(name: str) -> None:
        for _ in range(10):
            await pause()
            slices.append((turns.number, name))

    with Turns() as turns:
        await asyncio.gather(*(work(name) for name in "abcd"))
    assert max(Counter(turn for turn, _ in slices).values()) == 1
    assert [name for _, name in slices] == list("abcd") * 10


async def test_a_short_request_of_many_turns_waits_for_no_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn of it is long enough to be seen; those with long work wait until it is over."""
    monkeypatch.setattr(event_loop, "_LONGEST_PAUSE_S", 60)
    slices = [0]

    async def long_work() -> None:
        while True:
            await pause()
            slices[0] += 1
            time.sleep(0.005)

    longs = [asyncio.create_task(long_work()) for _ in range(20)]
    while slices[0] < 25:  # the first slice of each is not known to be long
        await asyncio.sleep(0)
    before = slices[0]
    for _ in range(15):
        time.sleep(0.0005)
        await asyncio.sleep(0)
    assert slices[0] == before
    for task in longs:
        task.cancel()


async def test_short_slices_go_on_in_the_next_turn_of_a_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_PAUSE_S", 60)
    turns = [0]
    busy = asyncio.create_task(keep_busy(turns, 0.0005))
    for _ in range(50):
        await pause()
    assert turns[0] <= 3 * 50
    busy.cancel()


async def test_one_who_is_new_does_not_wait_for_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_PAUSE_S", 60)
    slices = 0

    async def long_work() -> None:
        nonlocal slices
        while True:
            await pause()
            slices += 1
            time.sleep(1.0 if slices == 2 else 0.02)

    long = asyncio.create_task(long_work())
    while slices < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # the loop is quiet and rests for 2 s
    await asyncio.wait_for(pause(), 1)
    assert slices == 2
    long.cancel()


async def test_a_loop_that_is_never_quiet_does_long_work_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_PAUSE_S", 0.01)

    busy = asyncio.create_task(keep_busy([0], 0.001))
    for _ in range(3):
        await asyncio.wait_for(pause(), 30)
    busy.cancel()


async def test_the_loop_rests_for_as_long_as_a_slice_and_what_it_starts_have_taken() -> None:
    """Bounds below: how long a rest is at least."""

    async def started() -> None:
        time.sleep(0.006)

    await pause()
    time.sleep(0.01)
    task = asyncio.create_task(started())
    began_s = time.monotonic()
    await pause(cost_s=0.006)
    assert time.monotonic() - began_s >= 0.016 - 0.005
    await task


async def test_a_cancelled_task_costs_no_slice_and_stops_nobody() -> None:
    tasks = [asyncio.create_task(pause()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait_for(tasks[4], 30)
    await asyncio.wait_for(pause(), 30)  # and it begins anew afterwards
    assert [task.cancelled() for task in tasks] == [True] * 4 + [False]


def test_each_event_loop_has_its_own() -> None:
    for _ in range(2):
        asyncio.run(asyncio.wait_for(pause(), 30))


async def turns_of(turns: LoopTurns, callers: int, *, cancelled: int = 0) -> list[int]:
    """How many callers go on in each turn of the loop."""
    now, went_on = [0], [0] * 100

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            now[0] += 1

    async def work() -> None:
        await turns.turn()
        went_on[now[0]] += 1

    counting = asyncio.create_task(count())
    tasks = [asyncio.create_task(work()) for _ in range(callers)]
    await asyncio.sleep(0)
    for task in tasks[-cancelled:] if cancelled else ():
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    counting.cancel()
    return [count for count in went_on if count]


async def test_few_go_on_in_one_turn() -> None:
    turns = LoopTurns(3)
    assert await turns_of(turns, 10) == [3, 3, 3, 1]
    assert await turns_of(turns, 2) == [2]


async def test_who_has_left_takes_no_place() -> None:
    assert await turns_of(LoopTurns(3), 9, cancelled=4) == [3, 2]
