"""Long work on the event loop: in slices of milliseconds, with a pause after each.

A pause of asyncio (`sleep(0)`) ends in the next turn of the loop, for all tasks together: a turn then lasts as long
as one slice of every request that has long work, and a short request, which needs some ten turns, waits for ten times
all of them. So those who `pause` go on one after another. A task whose slices are short goes on in the next turn. One
that had a long slice begins the next when the loop has nothing else to do, after a rest as long as they took. So a
short request waits for one slice where it comes in, and where it comes back from another process, and for none in
between; and half of a core is left to the engine, and to the workers that short requests wait for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

#: A slice that takes longer is long.
_LONG_SLICE_S: Final = 0.002
#: All slices together take long when they have taken so much more than half of the time.
_CREDIT_S: Final = 0.005
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
    """Lets callers go on one at a time, in the order of their arrival; see the module."""

    def __init__(self) -> None:
        self._long_tasks: WeakSet[asyncio.Task[Any]] = WeakSet()  # that had a long slice
        self._waiting: deque[asyncio.Future[None]] = deque()  # of these
        self._new: deque[asyncio.Future[None]] = deque()  # of the others
        self._is_looking = False
        self._rest: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[Any] | None = None  # who went on in this turn of the loop
        self._went_on_s = 0.0
        self._granted_s = 0.0
        self._debt_s = 0.0  # twice what slices took, less the time that has passed since
        self._debt_at_s = 0.0
        self._takes_long = False
        self._turn_began_s = 0.0
        self._quiet_turns = 0

    async def turn(self, cost_s: float) -> None:
        """Wait until the next slice may begin.

        Args:
            cost_s: what the last slice costs the loop in later turns.
        """
        loop, task, now_s = asyncio.get_running_loop(), asyncio.current_task(), time.monotonic()
        self._end_slice(now_s, cost_s)
        mine: asyncio.Future[None] = loop.create_future()
        (self._waiting if task in self._long_tasks else self._new).append(mine)
        if self._rest is not None:  # one who is new does not wait for its end
            self._rest.cancel()
            self._rest, self._is_looking = None, False
        if not self._is_looking:
            self._is_looking, self._turn_began_s, self._quiet_turns = True, now_s, 0
            loop.call_soon(self._look)
        await mine
        self._running, self._went_on_s = task, time.monotonic()

    def _end_slice(self, now_s: float, cost_s: float = 0.0) -> None:
        """Count what the slice of this turn, if there was one, has taken; `cost_s` is what it costs beside that."""
        if self._running is not None:
            cost_s += now_s - self._went_on_s
            if cost_s > _LONG_SLICE_S:
                self._long_tasks.add(self._running)
            self._running = None
        left_s = max(0.0, self._debt_s - (now_s - self._debt_at_s))
        self._debt_s, self._debt_at_s = min(left_s + 2 * cost_s, _LONGEST_PAUSE_S), now_s

    def _look(self) -> None:
        """Called in each turn of the loop while somebody waits, after a slice of the same turn, but not in a rest."""
        loop, now_s = asyncio.get_running_loop(), time.monotonic()
        self._end_slice(now_s)
        self._quiet_turns = self._quiet_turns + 1 if now_s - self._turn_began_s < _QUIET_TURN_S else 0
        self._turn_began_s = now_s
        for waiting in (self._new, self._waiting):
            while waiting and waiting[0].done():  # its caller was cancelled
                waiting.popleft()
        if not self._waiting and not self._new:
            self._is_looking = False
            return
        rest_s = self._debt_s - _CREDIT_S
        self._takes_long |= rest_s > 0
        left_s = self._granted_s + _LONGEST_PAUSE_S - now_s
        is_quiet = self._quiet_turns >= _QUIET_TURNS
        if self._new and not (self._waiting and left_s <= 0):
            self._new.popleft().set_result(None)
            self._granted_s = self._granted_s if self._waiting else now_s
        elif not self._takes_long or left_s <= 0 or (is_quiet and rest_s <= 0):
            self._waiting.popleft().set_result(None)
            self._granted_s, self._takes_long, self._quiet_turns = now_s, False, 0
        elif is_quiet:
            self._rest = loop.call_later(min(rest_s, left_s), self._rested)
            return
        loop.call_soon(self._look)

    def _rested(self) -> None:
        self._rest = None
        self._turn_began_s, self._quiet_turns = time.monotonic(), 0
        self._look()


_slices: WeakKeyDictionary[asyncio.AbstractEventLoop, Slices] = WeakKeyDictionary()


async def pause(cost_s: float = 0.0) -> None:
    """Let the event loop do everything else, and wait until it is this task's turn for a slice of long work.

    Args:
        cost_s: what the last slice costs the loop in later turns, as tasks that it has started.
    """
    await _slices.setdefault(asyncio.get_running_loop(), Slices()).turn(cost_s)
