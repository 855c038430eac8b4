"""The engine's life: started, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from server.admission import Admission
from server.engine import supervisor as module
from server.engine.supervisor import EngineStartFailed, State, Supervisor
from server.errors import EngineUnavailable
from server.fairness.shares import Capacity
from server.request.gate import Gate


@dataclass
class FakeEngine:
    number: int
    errored: bool = False
    stopped: bool = False
    killed: bool = False
    silent_s: float = 0.0

    def watch(self) -> float:
        return self.silent_s

    async def kill(self) -> None:
        self.killed = True

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Plant:
    """Makes engines; `failures` of the next starts fail."""

    failures: int = 0
    engines: list[FakeEngine] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    async def start(self) -> FakeEngine:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no memory")
        engine = FakeEngine(len(self.engines))
        self.engines.append(engine)
        return engine

    async def started(self, engine: FakeEngine) -> None:
        self.log.append(f"start {engine.number}")


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.001)
    return Plant()


def supervise(plant: Plant, stall_s: float = 10.0) -> Supervisor[FakeEngine]:
    gate = Gate(Admission(Capacity(1, 1, 1)))
    return Supervisor(plant.start, gate, on_start=plant.started, backoff_s=0.001, stall_s=stall_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_restarts_a_dead_engine_and_tells(plant: Plant) -> None:
    supervisor = supervise(plant)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    plant.failures = 2
    plant.engines[0].errored = True
    await until(lambda: len(plant.engines) == 2 and supervisor.state is State.READY)
    assert plant.log == ["start 0", "start 1"]
    assert plant.engines[0].stopped and not plant.engines[1].stopped
    assert supervisor.restarts == 1
    await supervisor.stop()
    assert plant.engines[1].stopped and supervisor.engine is None
    await asyncio.wait_for(task, 5)


async def test_a_first_start_that_fails_ends_the_server(plant: Plant) -> None:
    plant.failures = 1
    supervisor = supervise(plant)
    with pytest.raises(EngineStartFailed, match="no memory"):
        await supervisor.run()


async def test_an_engine_whose_adapters_cannot_be_brought_back_is_stopped(plant: Plant) -> None:
    supervisor = supervise(plant)

    async def fail(engine: FakeEngine) -> None:
        raise RuntimeError("database gone")

    supervisor._on_start = fail
    with pytest.raises(EngineStartFailed):
        await supervisor.run()
    assert plant.engines[0].stopped


async def test_the_gate_refuses_between_two_engines(plant: Plant) -> None:
    supervisor = supervise(plant)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    supervisor._gate.attach(plant.engines[0])
    plant.failures = 50
    plant.engines[0].errored = True
    await until(lambda: supervisor.state is State.RESTARTING)
    with pytest.raises(EngineUnavailable):
        _ = supervisor._gate.vllm_config
    await supervisor.stop()
    task.cancel()


async def test_a_drained_server_does_not_restart_its_engine(plant: Plant) -> None:
    supervisor = supervise(plant)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    supervisor.drain()
    plant.engines[0].errored = True
    await asyncio.wait_for(task, 5)
    assert len(plant.engines) == 1 and supervisor.state is State.DRAINING


async def test_why_the_engine_died_or_did_not_start_is_told(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(plant)
    supervisor._explain = lambda: "out of memory, use less"
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    with caplog.at_level("ERROR"):
        plant.engines[0].errored = True
        await until(lambda: len(plant.engines) == 2)
    assert "out of memory, use less" in caplog.text
    await supervisor.stop()
    task.cancel()
    plant.failures = 1
    first = supervise(plant)
    first._explain = lambda: "out of memory, use less"
    with pytest.raises(EngineStartFailed, match="use less"):
        await first.run()


async def test_a_stalled_engine_is_killed_and_replaced(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(plant)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    plant.engines[0].silent_s = 9.9
    await until(lambda: supervisor.silent_s == 9.9)
    assert not plant.engines[0].killed and not supervisor.stalled
    plant.failures = 1
    plant.engines[0].silent_s = 10.0
    await until(lambda: supervisor.stalled)
    assert supervisor.state is State.RESTARTING
    await until(lambda: supervisor.state is State.READY)
    assert plant.engines[0].killed and plant.engines[0].stopped and len(plant.engines) == 2
    assert (supervisor.stalls, supervisor.restarts, supervisor.stalled) == (1, 1, False)
    assert "no step and no answer for 10.0 s (--engine-stall-s 10)" in caplog.text
    await supervisor.stop()
    await asyncio.wait_for(task, 5)
    assert not plant.engines[1].killed


async def test_without_a_limit_silence_has_no_effect(plant: Plant) -> None:
    supervisor = supervise(plant, stall_s=0)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    plant.engines[0].silent_s = 1e6
    await until(lambda: supervisor.silent_s == 1e6)
    await asyncio.sleep(0.01)
    assert supervisor.state is State.READY and not plant.engines[0].killed
    await supervisor.stop()
    await asyncio.wait_for(task, 5)


async def test_an_engine_that_stalls_while_its_adapters_are_loaded(plant: Plant) -> None:
    """The first time the server ends, later it tries again."""
    supervisor = supervise(plant)
    loads = 0

    async def load(engine: FakeEngine) -> None:
        nonlocal loads
        loads += 1
        if loads == 2:
            engine.silent_s = 11.0
            await asyncio.Event().wait()

    supervisor._on_start = load
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    plant.engines[0].errored = True
    await until(lambda: len(plant.engines) == 3 and supervisor.state is State.READY)
    assert plant.engines[1].killed and plant.engines[1].stopped and supervisor.stalls == 1
    await supervisor.stop()
    await asyncio.wait_for(task, 5)

    first = supervise(plant)
    first._on_start = load
    loads = 1
    with pytest.raises(EngineStartFailed, match="no sign of life while its adapters were loaded"):
        await first.run()
    assert plant.engines[3].killed and plant.engines[3].stopped


async def test_a_server_that_drains_while_a_stalled_engine_is_killed_does_not_start_another(
    plant: Plant,
) -> None:
    supervisor = supervise(plant)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state is State.READY)
    killing, killed = asyncio.Event(), asyncio.Event()

    async def kill() -> None:
        killing.set()
        await killed.wait()

    plant.engines[0].kill = kill  # type: ignore[method-assign]
    plant.engines[0].silent_s = 10.0
    await asyncio.wait_for(killing.wait(), 5)
    supervisor.drain()
    killed.set()
    await asyncio.wait_for(task, 5)
    assert len(plant.engines) == 1 and supervisor.state is State.DRAINING and plant.engines[0].stopped


async def test_stalls_in_a_row_are_followed_by_longer_pauses(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervise(plant)
    pauses = []
    for _ in range(3):
        supervisor._note_stall()
        pauses.append(supervisor._pause_s())
        supervisor._serves()
    assert pauses == [0.0, 0.001, 0.002]
    supervisor._stalls_in_a_row = 2000
    assert supervisor._pause_s() == module.MAX_BACKOFF_S
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    supervisor._note_stall()
    assert supervisor._pause_s() == 0.0
