"""Notices an engine that has stopped making progress. Leans on nothing of vLLM.

The engine gives a sign of life at every step, and on a CPU at every layer (`server.engine.process.heartbeat`). While
it is quiet the server pings it: an idle engine answers at once, a working one between two steps. Silence is
therefore never the silence of an engine that has nothing to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

logger = logging.getLogger("loragate.watchdog")

#: An engine that has been quiet for this long is pinged.
PING_INTERVAL_S = 1.0
#: The most that one tick adds to the silence. A tick that comes later was delayed here: this event loop was blocked,
#: this process was stopped, or the whole machine was suspended. The engine had no chance to be seen in that time.
MAX_TICK_S = 1.0


class Signs(Protocol):
    """What the engine's processes report (`server.engine.process.heartbeat.LifeSigns`)."""

    @property
    def last_beat(self) -> int:
        """Changes with every sign of progress."""

    @property
    def pings(self) -> int:
        """Number of pings that the engine has handled."""


class Silence:
    """Seconds in which a value has not changed, as seen by regular ticks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._value: object = None

    def tick(self, value: object, elapsed_s: float) -> None:
        """Note the value; `elapsed_s` is the time since the last tick."""
        self.seconds = self.seconds + elapsed_s if value == self._value else 0.0
        self._value = value


class Watchdog:
    """Measures the silence of one engine; `tick` must be called several times a second.

    Args:
        signs: what the engine's processes report.
        ping: asks EngineCore for an answer; raises an exception when the engine has died.
        clock: monotonic seconds.
    """

    def __init__(
        self, signs: Signs, ping: Callable[[], Awaitable[Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._signs = signs
        self._ping = ping
        self._clock = clock
        self._at = clock()
        self._quiet, self._unanswered = Silence(), Silence()
        self._answers = 0
        self._pinging: asyncio.Task[None] | None = None
        self._handled_before = 0  # pings that had been handled when the present one was sent

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life.

        It counts two kinds of silence: the engine neither makes steps nor handles a ping, or it has handled a ping
        and its answer does not arrive, so that no token would arrive either.
        """
        return max(self._quiet.seconds, self._unanswered.seconds)

    def tick(self) -> float:
        """Look at the engine, and ping it when it is quiet; returns `silent_s`."""
        now = self._clock()
        elapsed_s = min(now - self._at, MAX_TICK_S)
        self._at = now
        self._quiet.tick((self._signs.last_beat, self._answers), elapsed_s)
        is_owed = self._pinging is not None and self._signs.pings > self._handled_before
        self._unanswered.tick((self._answers, is_owed), elapsed_s if is_owed else 0.0)
        if self._pinging is None and self._quiet.seconds >= PING_INTERVAL_S:
            self._handled_before = self._signs.pings
            self._pinging = asyncio.create_task(self._send(), name="engine ping")
        return self.silent_s

    def close(self) -> None:
        """Cancel the ping that still waits for its answer."""
        if self._pinging is not None:
            self._pinging.cancel()

    async def _send(self) -> None:
        try:
            await self._ping()
        except Exception:  # vLLM passes on any error of its processes, and an error is an answer as well
            logger.debug("The engine answered a ping with an error.", exc_info=True)
        self._answers += 1
        self._pinging = None
