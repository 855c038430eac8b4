"""Long work on the event loop: in slices of milliseconds, with a pause after each.

A pause of asyncio (`sleep(0)`) ends in the next turn of the loop, for all tasks together: a turn then lasts as long
as one slice of every request that has long work, and a short request, which needs some ten turns, waits for ten times
all of them. Those who `pause` go on one after another, one in each turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

#: A turn that is this short has no queue of work; `catch_up` waits for so many turns at most.
_SHORT_TURN_S: Final = 0.005
_MOST_TURNS: Final = 50


class LoopTurns:
    """Lets at most `per_turn` callers go on in one turn of the event loop, in the order of their arrival."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait for a turn of the loop that has room."""
        if self._taken >= self._per_turn or self._waiting:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(mine)
            await mine
            return
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._taken += 1

    def _next_turn(self) -> None:
        self._taken = 0
        while self._waiting and self._taken < self._per_turn:
            mine = self._waiting.popleft()
            if not mine.done():  # its caller was cancelled
                mine.set_result(None)
                self._taken += 1
        if self._taken:
            asyncio.get_running_loop().call_soon(self._next_turn)


_slices: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopTurns] = WeakKeyDictionary()


async def pause() -> None:
    """Let the event loop do everything else, and wait until it is this task's turn for a slice of long work."""
    await asyncio.sleep(0)
    await _slices.setdefault(asyncio.get_running_loop(), LoopTurns(1)).turn()


async def catch_up() -> None:
    """Wait for a short turn: the loop has caught up with what was started, of which each part needs several turns."""
    for _ in range(_MOST_TURNS):
        began_s = time.monotonic()
        await asyncio.sleep(0)
        if time.monotonic() - began_s < _SHORT_TURN_S:
            return
