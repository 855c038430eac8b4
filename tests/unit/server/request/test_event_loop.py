"""Slices of long work share the event loop's turns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from server.request.event_loop import LoopTurns, catch_up, pause


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


async def test_one_slice_in_each_turn() -> None:
    slices: list[tuple[int, str]] = []

    async def work(name: str) -> None:
        for _ in range(10):
            await pause()
            slices.append((turns.number, name))

    with Turns() as turns:
        await asyncio.gather(*(work(name) for name in "abcd"))
    assert max(Counter(turn for turn, _ in slices).values()) == 1
    assert [name for _, name in slices] == list("abcd") * 10


async def test_all_others_run_in_every_turn() -> None:
    with Turns() as turns:
        longs = [asyncio.create_task(pause()) for _ in range(50)]
        for _ in range(10):  # a short request, of ten turns
            await asyncio.sleep(0)
        assert turns.number <= 11
        assert not all(task.done() for task in longs)
        await asyncio.gather(*longs)


async def test_a_cancelled_task_costs_no_turn_and_stops_nobody() -> None:
    tasks = [asyncio.create_task(pause()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait_for(tasks[4], 1)
    await asyncio.wait_for(pause(), 1)  # and it begins anew afterwards
    assert [task.cancelled() for task in tasks] == [True] * 4 + [False]


async def test_catching_up_waits_while_turns_are_long() -> None:
    long_turns = [0]

    def work() -> None:
        time.sleep(0.02)
        long_turns[0] += 1
        if long_turns[0] < 5:
            asyncio.get_running_loop().call_soon(work)

    asyncio.get_running_loop().call_soon(work)
    await catch_up()
    assert long_turns == [5]


def test_each_event_loop_has_its_own() -> None:
    for _ in range(2):
        asyncio.run(asyncio.wait_for(pause(), 1))


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
