"""Which silence is an engine's, and which is only the server's own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from server.engine.process.watchdog import MAX_TICK_S, PING_INTERVAL_S, Watchdog

POLL_S = 0.25


@dataclass
class FakeEngine:
    """An engine with a clock of its own."""

    now: float = 100.0
    last_beat: int = 0
    pings: int = 0
    sent: int = 0
    handles: bool = True
    answers: bool = True
    error: Exception | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def ping(self) -> Any:
        self.sent += 1
        if not self.handles:
            await self.waiting.wait()
        self.pings += 1
        self.last_beat += 1
        if self.error:
            raise self.error
        if not self.answers:
            await self.waiting.wait()


def watch(engine: FakeEngine) -> Watchdog:
    return Watchdog(engine, engine.ping, clock=lambda: engine.now)


async def run(watchdog: Watchdog, engine: FakeEngine, seconds: float, *, beats: bool = False) -> float:
    """Ticks for some seconds; returns the last silence."""
    silent_s = 0.0
    for _ in range(int(seconds / POLL_S)):
        engine.now += POLL_S
        engine.last_beat += beats
        silent_s = watchdog.tick()
        await asyncio.sleep(0)
    return silent_s


async def test_an_idle_engine_answers_pings() -> None:
    engine = FakeEngine()
    watchdog = watch(engine)
    assert await run(watchdog, engine, 60) <= PING_INTERVAL_S + POLL_S
    assert 30 <= engine.sent <= 60


async def test_a_working_engine_is_not_asked() -> None:
    engine = FakeEngine()
    watchdog = watch(engine)
    assert await run(watchdog, engine, 60, beats=True) == 0
    assert engine.sent == 0


async def test_an_engine_that_does_nothing_is_silent() -> None:
    engine = FakeEngine(handles=False)
    watchdog = watch(engine)
    silent_s = await run(watchdog, engine, 60)
    assert 59 <= silent_s <= 60 and engine.sent == 1
    engine.waiting.set()  # it was only slow
    assert await run(watchdog, engine, 1) <= 1
    assert watchdog.silent_s == watchdog.tick()


async def test_a_long_step_with_progress_is_no_silence() -> None:
    engine = FakeEngine(handles=False)
    watchdog = watch(engine)
    await run(watchdog, engine, 2)
    assert engine.sent == 1
    assert await run(watchdog, engine, 60, beats=True) == 0


async def test_answers_that_do_not_arrive_are_silence_although_the_engine_works() -> None:
    engine = FakeEngine(answers=False)
    watchdog = watch(engine)
    await run(watchdog, engine, 2)
    silent_s = await run(watchdog, engine, 30, beats=True)
    assert 29 <= silent_s <= 31
    engine.waiting.set()
    await asyncio.sleep(0)
    assert await run(watchdog, engine, 1, beats=True) == 0


async def test_an_answer_with_an_error_is_an_answer() -> None:
    engine = FakeEngine(error=RuntimeError("the call failed"))
    watchdog = watch(engine)
    assert await run(watchdog, engine, 30) <= PING_INTERVAL_S + POLL_S
    assert engine.sent >= 10


async def test_time_in_which_the_server_did_not_look_is_not_the_engines() -> None:
    """A blocked event loop, a server that was stopped, a machine that was suspended: the clock has jumped."""
    engine = FakeEngine(handles=False)
    watchdog = watch(engine)
    await run(watchdog, engine, 5)
    for jump_s in (3600.0, 7.0, 86400.0):
        before = watchdog.silent_s
        engine.now += jump_s
        assert watchdog.tick() <= before + MAX_TICK_S


async def test_closing_cancels_the_ping() -> None:
    engine = FakeEngine(handles=False)
    watchdog = watch(engine)
    watchdog.close()
    await run(watchdog, engine, 2)
    watchdog.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert watchdog._pinging is not None and watchdog._pinging.cancelled()
