"""Keeps one engine alive: start, watch, restart when it dies, drain, stop.

    start          engine dies                SIGTERM
STARTING → READY ⇄ RESTARTING          READY → DRAINING → STOPPED
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from server.errors import LoragateError
from server.request.gate import Gate

logger = logging.getLogger("loragate.supervisor")

POLL_INTERVAL_S = 0.2
MAX_BACKOFF_S = 60.0


class State(enum.StrEnum):
    """Where the server stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"


class Engine(Protocol):
    """What the supervisor needs of an engine."""

    @property
    def errored(self) -> bool:
        """Whether it has died."""

    async def stop(self) -> None:
        """End its processes; returns when they are gone."""


E = TypeVar("E", bound=Engine)


class EngineStartFailed(LoragateError):
    """The engine could not be started; the log above says why."""


class Supervisor(Generic[E]):
    """Owns the engine's life; `run` is its one task."""

    def __init__(
        self,
        start: Callable[[], Awaitable[E]],
        gate: Gate,
        *,
        on_start: Callable[[E], Awaitable[None]],
        backoff_s: float,
        explain: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Args:
            start: starts an engine; raises when it cannot.
            gate: detached while no engine serves.
            on_start: brings the adapters back before the first request is let in.
            backoff_s: first pause between two starts.
            explain: why the engine could not start or has died, where that is known.
        """
        self._start = start
        self._gate = gate
        self._on_start = on_start
        self._backoff_s = backoff_s
        self._explain = explain
        self.engine: E | None = None
        self.state = State.STARTING
        self.restarts = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Start the engine and keep it alive until cancelled or drained.

        Raises:
            EngineStartFailed: the very first start failed. Later ones are tried again.
        """
        await self._bring_up(first=True)
        while self.state is State.READY:
            await self._until_dead()
            if self.state is State.READY:
                await self._restart()

    async def stop(self) -> None:
        """End the engine; the server takes nothing any more."""
        self._become(State.STOPPED)
        await self._take_down()

    def drain(self) -> None:
        """Take no new work; what runs may end."""
        if self.state is not State.STOPPED:
            self._become(State.DRAINING)

    async def ready(self) -> None:
        """Return once the engine serves."""
        while self.state is not State.READY:
            await self._changed.wait()

    async def _bring_up(self, *, first: bool) -> None:
        backoff_s = self._backoff_s
        while self.state in (State.STARTING, State.RESTARTING):
            began = time.monotonic()
            try:
                self.engine = await self._start()
                await self._on_start(self.engine)
            except Exception as error:  # whatever vLLM raises for a model it cannot load
                await self._take_down()
                if first:
                    advice = self._explain()
                    raise EngineStartFailed(advice or f"The engine could not be started: {error}") from error
                logger.exception("the engine could not be started again; next try in %.0f s", backoff_s)
                self._tell_why()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            else:
                logger.info("engine ready", extra={"seconds": round(time.monotonic() - began, 1)})
                if self.state in (State.STARTING, State.RESTARTING):
                    self._become(State.READY)

    async def _until_dead(self) -> None:
        # NOTE: vLLM sets `errored` from a thread of its own and tells nobody.
        while self.state is State.READY and self.engine is not None and not self.engine.errored:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _restart(self) -> None:
        logger.error("the engine died; starting it again")
        self._tell_why()
        self._become(State.RESTARTING)
        self.restarts += 1
        await self._take_down()
        await self._bring_up(first=False)

    def _tell_why(self) -> None:
        why = self._explain()
        if why:
            logger.error(why)

    async def _take_down(self) -> None:
        self._gate.detach()
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.stop()

    def _become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
