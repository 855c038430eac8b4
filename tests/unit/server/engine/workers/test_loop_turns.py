"""What becomes ready at once goes on in several turns of the event loop."""

from __future__ import annotations

import asyncio

from server.engine.workers.loop_turns import LoopTurns


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
