"""Keeps one engine running: starts it, watches it, restarts it when it dies or stalls, drains it, stops it.

Leans on nothing of vLLM.

    start     engine dies or stalls           SIGTERM
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
#: An engine that stalls within this time after its start counts as one that stalls again; see `_pause_s`.
SETTLED_S = 600.0


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

    def watch(self) -> float:
        """Seconds without a sign of life; called several times a second."""

    async def kill(self) -> None:
        """End an engine that gives no sign of life, and its requests; `stop` follows."""

    async def stop(self) -> None:
        """End the engine's processes; returns when they have ended."""


E = TypeVar("E", bound=SupervisedEngine)


class EngineStartFailed(LoragateError):
    """The engine cannot be started; the log contains the cause."""


class EngineStartStalled(LoragateError):
    """The engine gave no sign of life while its adapters were loaded."""


class Supervisor(Generic[E]):
    """Starts and restarts the engine; `run` is its only task."""

    def __init__(
        self,
        start: Callable[[], Awaitable[E]],
        gate: Gate,
        *,
        on_start: Callable[[E], Awaitable[None]],
        backoff_s: float,
        stall_s: float = 0.0,
        explain: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Args:
            start: starts an engine; raises an exception when it cannot.
            gate: detached while no engine serves.
            on_start: loads the adapters again, before the first request is admitted.
            backoff_s: the first pause between two start attempts.
            stall_s: an engine without a sign of life for this long is killed and restarted; 0: never.
            explain: the cause of a failed start or of a dead engine, when it is known.
        """
        self._start = start
        self._gate = gate
        self._on_start = on_start
        self._backoff_s = backoff_s
        self._stall_s = stall_s
        self._explain = explain
        self.engine: E | None = None
        self.state = State.STARTING
        self.restarts = 0
        self.stalls = 0
        self.stalled = False
        """Set from the moment in which a stall is noticed until the next engine serves."""
        self.silent_s = 0.0
        """Seconds without a sign of life of the engine."""
        self._stalls_in_a_row = 0
        self._ready_at = float("-inf")

    async def run(self) -> None:
        """Start the engine and keep it running until this task is cancelled or the server drains.

        Raises:
            EngineStartFailed: the first start failed. Later starts are retried.
        """
        await self._start_engine(first=True)
        while self.state is State.READY:
            await self._until_down()
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
                await self._bring_up(self.engine)
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
                self._serves()

    def _serves(self) -> None:
        self.stalled = False
        self._ready_at = time.monotonic()
        if self.state in (State.STARTING, State.RESTARTING):
            self.state = State.READY

    async def _bring_up(self, engine: E) -> None:
        """Load the adapters again. Raises: EngineStartStalled: the engine stalled meanwhile."""
        loading = asyncio.ensure_future(self._on_start(engine))
        try:
            while not loading.done():
                await asyncio.wait({loading}, timeout=POLL_INTERVAL_S)
                if not loading.done() and self._is_stalled(engine):
                    self._note_stall()
                    await engine.kill()
                    raise EngineStartStalled
        finally:
            loading.cancel()  # without effect on one that has ended
            await asyncio.wait({loading})
            if not loading.cancelled():
                loading.exception()  # marks it as seen: a killed engine fails it, too
        await loading

    async def _until_down(self) -> None:
        """Return when the engine has died or stalled, or when the server drains."""
        # NOTE: vLLM sets `errored` from its own thread and notifies nobody.
        while self.state is State.READY and self.engine is not None and not self.engine.errored:
            if self._is_stalled(self.engine):
                self._note_stall()
                return
            await asyncio.sleep(POLL_INTERVAL_S)

    def _is_stalled(self, engine: E) -> bool:
        self.silent_s = engine.watch()
        return 0 < self._stall_s <= self.silent_s

    def _note_stall(self) -> None:
        self.stalls += 1
        self.stalled = True
        has_settled = time.monotonic() - self._ready_at > SETTLED_S
        self._stalls_in_a_row = 1 if has_settled else self._stalls_in_a_row + 1
        logger.error(
            "The engine has stalled: no step and no answer for %.1f s (--engine-stall-s %g). It is killed.",
            self.silent_s,
            self._stall_s,
        )

    async def _restart(self) -> None:
        self.state = State.RESTARTING
        self.restarts += 1
        self._gate.detach()
        if self.stalled and self.engine is not None:
            await self.engine.kill()
        else:
            logger.error("The engine died and is restarted.")
        self._log_cause()
        await self._stop_engine()
        if self.stalled:
            await asyncio.sleep(self._pause_s())
        await self._start_engine(first=False)

    def _pause_s(self) -> float:
        """The pause before a restart after a stall: none after the first one, then doubling up to MAX_BACKOFF_S."""
        again = self._stalls_in_a_row - 1
        return min(self._backoff_s * 2.0 ** min(again - 1, 20), MAX_BACKOFF_S) if again > 0 else 0.0

    def _log_cause(self) -> None:
        why = self._explain()
        if why:
            logger.error(why)

    async def _stop_engine(self) -> None:
        self._gate.detach()
        self.silent_s = 0.0
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.stop()
