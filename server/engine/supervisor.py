"""Keeps one engine running: starts it, watches it, restarts it when it dies, drains it, stops it.

Leans on nothing of vLLM.

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
    """The state of the server."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"


class SupervisedEngine(Protocol):
    """The part of an engine that the supervisor uses."""

    @property
    def errored(self) -> bool:
        """Whether the engine has died."""

    async def stop(self) -> None:
        """End the engine's processes; returns when they have ended."""


E = TypeVar("E", bound=SupervisedEngine)


class EngineStartFailed(LoragateError):
    """The engine cannot be started; the log contains the cause."""


class Supervisor(Generic[E]):
    """Starts and restarts the engine; `run` is its only task."""

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
            start: starts an engine; raises an exception when it cannot.
            gate: detached while no engine serves.
            on_start: loads the adapters again, before the first request is admitted.
            backoff_s: the first pause between two start attempts.
            explain: the cause of a failed start or of a dead engine, when it is known.
        """
        self._start = start
        self._gate = gate
        self._on_start = on_start
        self._backoff_s = backoff_s
        self._explain = explain
        self.engine: E | None = None
        self.state = State.STARTING
        self.restarts = 0

    async def run(self) -> None:
        """Start the engine and keep it running until this task is cancelled or the server drains.

        Raises:
            EngineStartFailed: the first start failed. Later starts are retried.
        """
        await self._start_engine(first=True)
        while self.state is State.READY:
            await self._until_dead()
            if self.state is State.READY:
                await self._restart()

    async def stop(self) -> None:
        """End the engine; the server accepts no more requests."""
        self.state = State.STOPPED
        await self._stop_engine()

    def drain(self) -> None:
        """Accept no new requests; running requests may finish."""
        if self.state is not State.STOPPED:
            self.state = State.DRAINING

    async def _start_engine(self, *, first: bool) -> None:
        backoff_s = self._backoff_s
        while self.state in (State.STARTING, State.RESTARTING):
            began = time.monotonic()
            try:
                self.engine = await self._start()
                await self._on_start(self.engine)
            except Exception as error:  # vLLM raises any exception for a model that it cannot load
                await self._stop_engine()
                if first:
                    advice = self._explain()
                    raise EngineStartFailed(advice or f"The engine cannot be started: {error}") from error
                logger.exception("The engine cannot be restarted; the next attempt is in %.0f s.", backoff_s)
                self._log_cause()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            else:
                logger.info("The engine is ready.", extra={"seconds": round(time.monotonic() - began, 1)})
                if self.state in (State.STARTING, State.RESTARTING):
                    self.state = State.READY

    async def _until_dead(self) -> None:
        # NOTE: vLLM sets `errored` from its own thread and notifies nobody.
        while self.state is State.READY and self.engine is not None and not self.engine.errored:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _restart(self) -> None:
        logger.error("The engine died and is restarted.")
        self._log_cause()
        self.state = State.RESTARTING
        self.restarts += 1
        await self._stop_engine()
        await self._start_engine(first=False)

    def _log_cause(self) -> None:
        why = self._explain()
        if why:
            logger.error(why)

    async def _stop_engine(self) -> None:
        self._gate.detach()
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.stop()
