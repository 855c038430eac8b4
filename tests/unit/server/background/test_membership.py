"""The heartbeat, and what is repeated: an outage or a failure ends neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import AdapterError, RegistryUnavailable
from server.background import membership as module
from server.background.membership import MembershipLoop


class Parts:
    """A registry and a lifecycle that count, and fail as told."""

    def __init__(self) -> None:
        self.beats = self.converged = self.forgotten = self.left = 0
        self.state, self.fails, self.serves = 1, list[Exception](), True
        self.is_shared = True
        self.taken: list[Any] = []
        self.membership = self.availability = self.outcomes = self.answers = self
        self.leases = SimpleNamespace(take_over=self.forget_leases)
        self.reports = self.given_back = self.proven = 0
        self.told_serving: set[bool] = set()
        self.proving, self.proofs = SimpleNamespace(answer=self.prove), self

    def _fail(self) -> None:
        if self.fails:
            raise self.fails.pop()

    async def beat(self, *, serves: bool = False) -> None:
        self.beats += 1
        self.told_serving.add(serves)
        self._fail()

    async def forget(self) -> None:
        self.forgotten += 1

    async def prove(self) -> None:
        self.proven += 1
        self._fail()

    async def leave(self) -> None:
        self.left += 1
        self._fail()

    async def collect_depot_garbage(self) -> tuple[str, ...]:
        return ()

    async def converge(self) -> None:
        self.converged += 1
        self._fail()

    async def flush(self) -> None:
        """Nothing is new."""

    async def forget_leases(self) -> None:
        """None is left."""

    async def aclose(self) -> None:
        self.given_back += 1

    async def report(self) -> None:
        self.reports += 1
        self._fail()

    async def take_over(self) -> tuple[Any, ...]:
        return tuple(self.taken.pop() for _ in range(len(self.taken)))


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    for name in (
        "HEARTBEAT_S",
        "CONVERGE_INTERVAL_S",
        "PROVE_INTERVAL_S",
        "TAKE_OVER_INTERVAL_S",
        "_FORGET_INTERVAL_S",
        "REPORT_INTERVAL_S",
    ):
        monkeypatch.setattr(module, name, 0.005)
    made = Parts()

    async def state() -> int:
        return made.state

    made.availability = SimpleNamespace(state=state)  # type: ignore[assignment]
    return made


def loop_of(parts: Parts) -> MembershipLoop:
    return MembershipLoop(parts, parts, parts, parts, lambda: parts.serves)  # type: ignore[arg-type]


async def run_for(loop: MembershipLoop, seconds: float = 0.08) -> None:
    task = asyncio.create_task(loop.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def run_until(loop: MembershipLoop, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_registry_is_applied_once_for_each_of_its_states(parts: Parts) -> None:
    loop = loop_of(parts)
    await run_until(loop, lambda: min(parts.beats, parts.forgotten, parts.reports) > 3)
    assert parts.converged == 1
    parts.state = 2
    await run_for(loop)
    assert parts.converged == 2


async def test_it_is_applied_anew_when_another_engine_serves(parts: Parts) -> None:
    loop = loop_of(parts)
    await run_for(loop)
    parts.serves = False
    await run_for(loop)
    assert parts.converged == 1 and parts.told_serving == {True, False}
    before = parts.proven
    assert before > 0
    await run_for(loop)
    assert parts.proven == before  # without an engine it can prove nothing
    parts.serves = True
    await run_for(loop)
    assert parts.converged == 2 and parts.proven > before


@pytest.mark.parametrize("error", [RegistryUnavailable(), AdapterError("odd"), OSError()])
async def test_a_failure_is_tried_again(parts: Parts, error: Exception) -> None:
    parts.fails = [error]
    await run_until(loop_of(parts), lambda: min(parts.beats, parts.reports) > 3)
    assert parts.converged in (1, 2)


async def test_what_was_taken_over_is_logged(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.taken = [
        SimpleNamespace(public_name="acme-support", number=3, state=SimpleNamespace(value="failed"))
    ]
    await run_for(loop_of(parts))
    assert "acme-support@3 unfinished; it is now failed" in caplog.text


async def test_one_server_without_others_only_applies_the_registry(parts: Parts) -> None:
    parts.is_shared = False
    await run_for(loop_of(parts))
    await loop_of(parts).leave()
    assert (parts.beats, parts.forgotten, parts.converged, parts.left) == (0, 0, 1, 0)


@pytest.mark.parametrize("error", [None, RegistryUnavailable(), OSError()])
async def test_a_stop_does_not_depend_on_the_database(parts: Parts, error: Exception | None) -> None:
    parts.fails = [error] if error else []
    await loop_of(parts).leave()
    assert parts.left == 1 and parts.given_back == 1
