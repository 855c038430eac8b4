"""Open and closed loops, against a server that only waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.harness import load_generator as load
from benchmarks.harness.bursts import BurstFailed, decode_rate, prefill_rate
from benchmarks.harness.client import Clients, Sample
from benchmarks.harness.load_generator import Extent, run
from benchmarks.harness.workload import Arrivals, Lengths, Popularity, Request, Workload

WORKLOAD = Workload(
    {"acme": 1}, {"acme": ["acme-support"]}, Popularity("uniform"), Lengths("fixed", 4), Lengths("fixed", 4)
)


class Waiting(Clients):
    """Answers after a while, and remembers how many were being answered at once."""

    def __init__(self, answer_s: float) -> None:
        super().__init__("http://nowhere", {})
        self.answer_s = answer_s
        self.running = self.most = 0

    async def send(self, request: Request, origin_s: float, due_s: float | None = None) -> Sample:
        sent_s = time.perf_counter() - origin_s
        sample = Sample(request.number, "acme", request.model, sent_s, sent_s if due_s is None else due_s)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.answer_s)
        finally:
            self.running -= 1
        sample.end_s = time.perf_counter() - origin_s
        sample.pieces_s, sample.output_tokens = [sample.end_s], 4
        return sample


async def test_a_closed_loop_keeps_its_clients_busy_and_sends_no_request_twice() -> None:
    server = Waiting(0.01)
    seen: list[int] = []
    done = await run(
        server,
        WORKLOAD,
        Arrivals("clients", 4),
        Extent(60, requests=30),
        lambda sample: seen.append(sample.number),
    )
    assert server.most == 4
    assert sorted(seen) == list(range(30)) == sorted(sample.number for sample in done.samples)
    assert done.seconds == pytest.approx(max(sample.end_s for sample in done.samples), abs=0.05)


async def test_a_closed_loop_of_some_seconds_reads_its_last_answers() -> None:
    done = await run(Waiting(0.05), WORKLOAD, Arrivals("clients", 2), Extent(0.12))
    assert done.seconds == 0.12
    assert all(sample.sent_s < 0.12 for sample in done.samples)
    assert max(sample.end_s for sample in done.samples) > 0.12
    assert done.tokens < sum(sample.output_tokens for sample in done.samples), (
        "the last came too late to count"
    )


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    server = Waiting(0.5)
    done = await run(server, WORKLOAD, Arrivals("constant", 50), Extent(0.3))
    assert sorted(s.due_s for s in done.samples) == pytest.approx([0.02 * n for n in range(1, 15)])
    assert server.most > 5
    assert all(sample.sent_s >= sample.due_s - 1e-3 for sample in done.samples)


async def test_an_open_loop_of_some_requests() -> None:
    done = await run(Waiting(0.01), WORKLOAD, Arrivals("poisson", 500), Extent(0.001, requests=7))
    assert sorted(sample.number for sample in done.samples) == list(range(7))


async def test_what_never_ends_is_given_up_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DRAIN_S", 0.05)
    done = await run(Waiting(60), WORKLOAD, Arrivals("clients", 3), Extent(0.05))
    assert [sample.error for sample in done.samples] == ["unfinished"] * 3


def burst(*pieces_s: list[float]) -> list[Sample]:
    return [
        Sample(n, "t", "m", 1.0, 1.0, pieces, pieces[-1], prompt_tokens=50, output_tokens=len(pieces))
        for n, pieces in enumerate(pieces_s)
    ]


def test_prefill_ends_with_the_last_first_token() -> None:
    assert prefill_rate(burst([2.0, 9.0], [3.0, 9.0])) == 50


def test_decode_counts_while_all_generate() -> None:
    assert decode_rate(burst([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0])) == pytest.approx(2.0)


def test_requests_that_never_ran_together_have_no_decode_rate() -> None:
    with pytest.raises(BurstFailed, match="output-tokens"):
        decode_rate(burst([1.0, 2.0], [3.0, 4.0]))
