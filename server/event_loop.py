"""Long work on the event loop: in slices of milliseconds, with a pause after each.

A pause of asyncio (`sleep(0)`) ends in the next turn of the loop, for all tasks together: a turn then lasts as long as
one slice of every request that has long work, and a short request, which needs some ten turns, waits for ten times all
of them. Those who pause here go on one after another, one in each turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class _Pauses:
    """The tasks of one event loop that pause, in the order in which they began to."""

    def __init__(self) -> None:
        self._paused: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    def add(self, paused: asyncio.Future[None]) -> None:
        """Let this future's task go on when its turn comes."""
        self._paused.append(paused)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._let_one_go_on)

    def _let_one_go_on(self) -> None:
        """It runs after this callback; the next one in the turn after that."""
        while self._paused:
            paused = self._paused.popleft()
            if not paused.done():  # else its task was cancelled
                paused.set_result(None)
                asyncio.get_running_loop().call_soon(self._let_one_go_on)
                return
        self._is_scheduled = False


_pauses: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pauses] = WeakKeyDictionary()


async def pause() -> None:
    """Let the event loop do everything else, and wait until it is this task's turn to do long work."""
    loop = asyncio.get_running_loop()
    pauses = _pauses.get(loop)
    if pauses is None:
        pauses = _pauses[loop] = _Pauses()
    paused = loop.create_future()
    pauses.add(paused)
    await paused
