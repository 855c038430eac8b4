"""Spreads small pieces of work over turns of the event loop: what becomes ready at once need not run at once."""

from __future__ import annotations

import asyncio
from collections import deque


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
