"""Long work on the event loop: in slices of milliseconds, with a pause after each.

A pause of asyncio (`sleep(0)`) ends in the next turn of the loop, for all tasks together: a turn then lasts as long
as one slice of every request that has long work, and a short request, which needs some ten turns, waits for ten times
all of them. Those who `pause` go on one after another, each when the loop has nothing else to do: so a short request
waits for one slice where it comes in, and where it comes back from another process, and for none in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

#: The loop has nothing else to do when so many turns on end were as short as this: one without any work takes 30 µs.
_QUIET_TURNS: Final = 8
_QUIET_TURN_S: Final = 0.0001
#: After so long the next slice begins all the same.
_LONGEST_PAUSE_S: Final = 0.05


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


class Slices:
    """Lets callers go on one at a time, in the order of their arrival.

    Each begins when the event loop has become quiet, and has then been so for as long as the slice before, with all
    that it has started, kept it busy: so half of a core is left to the engine, and to the workers that short requests
    wait for.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_looking = False
        self._began_s = 0.0  # the last slice
        self._turn_began_s = 0.0
        self._busy_until_s = 0.0
        self._quiet_turns = 0

    async def turn(self) -> None:
        """Wait for a quiet loop, or for the longest pause."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        if not self._is_looking:
            self._is_looking, self._quiet_turns = True, 0
            self._began_s = self._turn_began_s = self._busy_until_s = time.monotonic()
            loop.call_soon(self._look)
        await mine

    def _look(self) -> None:
        """Called in each turn of the loop while somebody waits, after a slice of the same turn, but not in a rest."""
        loop, now_s = asyncio.get_running_loop(), time.monotonic()
        self._quiet_turns += 1
        if now_s - self._turn_began_s >= _QUIET_TURN_S:
            self._busy_until_s, self._quiet_turns = now_s, 0
        self._turn_began_s = now_s
        while self._waiting and self._waiting[0].done():  # its caller was cancelled
            self._waiting.popleft()
        if not self._waiting:
            self._is_looking = False
            return
        left_s = self._began_s + _LONGEST_PAUSE_S - now_s
        rest_s = min(left_s, 2 * self._busy_until_s - self._began_s - now_s)
        if self._quiet_turns >= _QUIET_TURNS and rest_s > 0:
            loop.call_later(rest_s, self._rested)
            return
        if self._quiet_turns >= _QUIET_TURNS or left_s <= 0:
            self._waiting.popleft().set_result(None)
            self._began_s = self._busy_until_s = now_s
            self._quiet_turns = 0
        loop.call_soon(self._look)

    def _rested(self) -> None:
        self._turn_began_s, self._quiet_turns = time.monotonic(), 0
        self._look()


_slices: WeakKeyDictionary[asyncio.AbstractEventLoop, Slices] = WeakKeyDictionary()


async def pause() -> None:
    """Let the event loop do everything else, and wait until it is this task's turn for a slice of long work."""
    await _slices.setdefault(asyncio.get_running_loop(), Slices()).turn()
