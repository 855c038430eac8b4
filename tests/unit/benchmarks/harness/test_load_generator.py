"""Open and closed loops against a server that answers after a fixed time."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.harness import load_generator
from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.load_generator import RunLength, generate_load
from benchmarks.harness.workload import Arrivals, Lengths, Popularity, Request, Workload

WORKLOAD = Workload(
    {"acme": 1}, {"acme": ["acme-support"]}, Popularity(), Lengths("fixed", 4), Lengths("fixed", 4)
)


class Waiting(TenantClients):
    """Answers after `answer_s`, and counts the requests that run at the same time."""

    def __init__(self, answer_s: float) -> None:
        super().__init__("http://nowhere", {})
        self.answer_s = answer_s
        self.running = self.most = 0

    async def send(self, request: Request, origin_s: float, due_s: float | None = None) -> RequestResult:
        sent_s = time.perf_counter() - origin_s
        result = RequestResult(
            request.number, "acme", request.model, sent_s, sent_s if due_s is None else due_s
        )
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.answer_s)
        finally:
            self.running -= 1
        result.end_s = time.perf_counter() - origin_s
        result.event_times_s, result.output_tokens = [result.end_s], 4
        return result


async def test_a_closed_loop_keeps_its_clients_busy_and_sends_no_request_twice() -> None:
    server = Waiting(0.01)
    seen: list[int] = []
    run = await generate_load(
        server,
        WORKLOAD,
        Arrivals("clients", 4),
        RunLength(60, requests=30),
        lambda result: seen.append(result.number),
    )
    assert server.most == 4
    assert sorted(seen) == list(range(30)) == sorted(result.number for result in run.results)
    assert run.seconds == pytest.approx(max(result.end_s for result in run.results), abs=0.05)


async def test_a_closed_loop_with_a_duration_reads_its_last_answers() -> None:
    run = await generate_load(Waiting(0.05), WORKLOAD, Arrivals("clients", 2), RunLength(0.12))
    assert run.seconds == 0.12
    assert all(result.sent_s < 0.12 for result in run.results)
    assert max(result.end_s for result in run.results) > 0.12
    assert run.tokens < sum(result.output_tokens for result in run.results), "the last came too late to count"


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    server = Waiting(0.5)
    run = await generate_load(server, WORKLOAD, Arrivals("constant", 50), RunLength(0.3))
    assert sorted(s.due_s for s in run.results) == pytest.approx([0.02 * n for n in range(1, 15)])
    assert server.most > 5
    assert all(result.sent_s >= result.due_s - 1e-3 for result in run.results)


async def test_an_open_loop_with_a_number_of_requests() -> None:
    run = await generate_load(Waiting(0.01), WORKLOAD, Arrivals("poisson", 500), RunLength(0.001, requests=7))
    assert sorted(result.number for result in run.results) == list(range(7))


async def test_requests_that_never_end_are_cancelled_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_generator, "DRAIN_S", 0.05)
    run = await generate_load(Waiting(60), WORKLOAD, Arrivals("clients", 3), RunLength(0.05))
    assert [result.error for result in run.results] == ["unfinished"] * 3
