"""The metered stream: what is counted, at which times, what the client sees, and what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sampling.repetition_detector import RepetitionCount, RepetitionDetector, Thresholds
from server.request import metering
from server.request.context import UsageCounters
from server.request.metering import MeteredStream, Progress

START_S = 100.0
PROMPT = [1, 2, 3, 4]


@dataclass
class Settled:
    """A reservation that only remembers with which tokens it is settled."""

    calls: list[dict[str, int]] = field(default_factory=list)

    def settle(self, **tokens: int) -> None:
        self.calls.append(tokens)


@dataclass
class Clock:
    now: float = START_S

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metering, "time", clock)
    return clock


def sequence(*token_ids: int, index: int = 0, finish_reason: str | None = None) -> Any:
    return SimpleNamespace(index=index, token_ids=token_ids, finish_reason=finish_reason)


def output(*sequences: Any, cached: int | None = 0, stats: Any = None) -> Any:
    return SimpleNamespace(
        outputs=list(sequences),
        prompt_token_ids=PROMPT,
        num_cached_tokens=cached,
        metrics=stats,
        prompt_logprobs=None,
    )


def stats(queued: float, scheduled: float, first: float) -> Any:
    return SimpleNamespace(queued_ts=queued, scheduled_ts=scheduled, first_token_ts=first)


async def streamed(clock: Clock, *steps: tuple[float, Any]) -> AsyncGenerator[Any]:
    """Each output at its time, in seconds after `START_S`."""
    for at_s, produced in steps:
        clock.now = START_S + at_s
        yield produced


async def never(_: Any = None) -> None:
    raise AssertionError("aborted without need")


def metered(
    stream: AsyncGenerator[Any],
    usage: UsageCounters,
    *,
    reservation: Settled | None = None,
    n: int = 1,
    progress: Any = None,
    steered: RepetitionCount | None = None,
    looped: RepetitionCount | None = None,
) -> MeteredStream:
    settled: Any = reservation or Settled()
    return MeteredStream(
        stream, settled, usage, never, n=n, progress=progress, steered=steered, looped=looped
    )


async def read(stream: MeteredStream) -> list[Any]:
    return [produced async for produced in stream.read()]


async def test_the_gap_between_two_outputs_counts_once_per_token_of_the_later(clock: Clock) -> None:
    usage = UsageCounters()
    steps = (
        (0.0, output(sequence(1))),
        (0.5, output(sequence(2, 3, 4, 5))),
        (0.7, output(sequence(finish_reason="stop"))),
        (1.5, output(sequence(6))),
    )
    await read(metered(streamed(clock, *steps), usage))
    assert sum(usage.gap_s.counts) == 4 + 1
    assert usage.gap_s.total == pytest.approx(0.5 + 1.0)
    assert dict(usage.gap_s.cumulative())["0.1"] == 0
    assert dict(usage.gap_s.cumulative())["0.25"] == 4
    assert (usage.first_token_at, usage.last_token_at) == (START_S, START_S + 1.5)


async def test_the_first_token_of_each_sequence_has_no_gap(clock: Clock) -> None:
    usage = UsageCounters()
    steps = ((0.0, output(sequence(1))), (1.0, output(sequence(1, index=1))))
    await read(metered(streamed(clock, *steps), usage, n=2))
    assert sum(usage.gap_s.counts) == 0


async def test_tokens_of_all_sequences_and_streams_of_a_request_add_up(clock: Clock) -> None:
    usage, reservations = UsageCounters(), [Settled(), Settled()]
    for reservation in reservations:
        produced = output(sequence(1, 2), sequence(3, index=1), cached=1)
        await read(metered(streamed(clock, (0, produced)), usage, reservation=reservation, n=2))
    assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens) == (8, 2, 6)
    for reservation in reservations:
        assert reservation.calls == [{"prompt_tokens": 4, "cached_tokens": 1, "generated_tokens": 3}]


async def test_without_a_prefix_cache_nothing_is_cached(clock: Clock) -> None:
    usage = UsageCounters()
    await read(metered(streamed(clock, (0, output(sequence(1), cached=None))), usage))
    assert (usage.prompt_tokens, usage.cached_tokens) == (4, 0)


async def test_a_stream_that_nobody_read_is_settled_with_nothing(clock: Clock) -> None:
    reservation = Settled()
    await metered(streamed(clock), UsageCounters(), reservation=reservation).aclose()
    assert reservation.calls == [{"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0}]


async def test_a_client_sees_an_answer_that_was_ended_for_repetition_as_cut_off(clock: Clock) -> None:
    usage = UsageCounters()
    produced = output(
        sequence(1, finish_reason="repetition"),
        sequence(1, index=1, finish_reason="stop"),
        sequence(1, index=2),
    )
    (seen,) = await read(metered(streamed(clock, (0, produced)), usage, n=3))
    assert [s.finish_reason for s in seen.outputs] == ["length", "stop", None]
    assert usage.finish_reasons == ["repetition", "stop"]


async def test_each_sequence_that_loops_is_counted_once_and_by_itself(clock: Clock) -> None:
    def count() -> RepetitionCount:
        thresholds = Thresholds(ngram_tokens=1, window_tokens=4)
        return RepetitionCount(
            lambda: RepetitionDetector(thresholds), lambda detector: detector.verdict is not None
        )

    usage = UsageCounters()
    looping = output(sequence(*[7] * 9), sequence(*[8] * 9, index=1), sequence(*range(9), index=2))
    steps = ((0, looping), (1, looping))
    await read(metered(streamed(clock, *steps), usage, n=3, steered=count(), looped=count()))
    assert (usage.answers_steered, usage.answers_looped) == (2, 2)


@pytest.mark.parametrize(
    ("first", "expected"),
    [(START_S - 3, START_S - 3), (START_S + 3, START_S), (0.0, START_S)],
    ids=["the engine knows", "never later than it was read", "the engine does not know"],
)
async def test_the_time_of_the_first_token_is_the_engines(
    clock: Clock, first: float, expected: float
) -> None:
    usage = UsageCounters()
    steps = ((0, output(sequence(1), stats=stats(90, 92, first))), (1, output(sequence(2))))
    await read(metered(streamed(clock, *steps), usage))
    assert usage.first_token_at == expected
    assert (usage.scheduled_at, usage.queue_s) == (92, 2)


@pytest.mark.parametrize("known", [None, stats(0, 92, 95), stats(90, 0, 95)])
async def test_without_both_times_the_wait_in_the_queue_is_unknown(clock: Clock, known: Any) -> None:
    usage = UsageCounters()
    await read(metered(streamed(clock, (0, output(sequence(1), stats=known))), usage))
    assert (usage.scheduled_at, usage.queue_s) == (None, None)
    assert usage.first_token_at == (START_S if known is None else 95)


async def test_the_progress_of_an_unstreamed_answer_has_its_first_token(clock: Clock) -> None:
    usage = UsageCounters()
    seen = [Progress(4, 1, 2, stats(90, 92, 95)), Progress(4, 1, 3, stats(90, 92, 96))]
    metered(streamed(clock), usage, progress=lambda: seen.pop(0) if seen else None)
    for generated in (2, 3, 3):
        usage.refresh()
        assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens) == (4, 1, generated)
        assert (usage.first_token_at, usage.queue_s) == (95, 2)


async def test_the_progress_without_the_engines_times_is_timed_when_it_is_seen(clock: Clock) -> None:
    usage = UsageCounters()
    metered(streamed(clock), usage, progress=lambda: Progress(4, 1, 2, None))
    usage.refresh()
    assert (usage.first_token_at, usage.queue_s) == (START_S, None)


@pytest.mark.parametrize("is_whole", [False, True])
async def test_an_unstreamed_answer_is_read_to_its_end_and_a_stream_in_the_callers_task(
    clock: Clock, is_whole: bool
) -> None:
    """A task of its own for each token would cost more than the rest of the metering."""
    usage, tasks = UsageCounters(), []

    async def stream() -> AsyncGenerator[Any]:
        tasks.append(asyncio.current_task())
        yield output(sequence(1, finish_reason="stop"))

    seen = await read(metered(stream(), usage, progress=(lambda: None) if is_whole else None))
    assert len(seen) == 1
    assert usage.generated_tokens == 1
    assert (tasks == [asyncio.current_task()]) is not is_whole


@pytest.mark.parametrize("abort_fails", [False, True])
async def test_a_cancelled_caller_waits_for_the_engine_and_stays_cancelled(abort_fails: bool) -> None:
    usage, ended = UsageCounters(), []

    async def stream() -> AsyncGenerator[Any]:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # an engine ends a generation in several steps
            ended.append(True)
            if abort_fails:
                raise ConnectionError
        yield

    reading = asyncio.create_task(read(metered(stream(), usage, progress=lambda: Progress(4, 0, 2, None))))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended == [True]
    assert usage.generated_tokens == 2


class Rows:
    """Log-probabilities of a prompt of which rows are left to read."""

    def __init__(self) -> None:
        self.read = 0

    async def complete(self) -> None:
        self.read += 1


@pytest.mark.parametrize("rows", [None, [{1: 0.0}], Rows()], ids=["none", "read already", "left"])
async def test_the_rest_of_a_prompts_log_probabilities_is_read_before_an_output_goes_on(
    clock: Clock, rows: Any
) -> None:
    produced = output(sequence(1))
    produced.prompt_logprobs = rows
    (passed,) = await read(metered(streamed(clock, (1.0, produced)), UsageCounters()))
    assert passed.prompt_logprobs is rows
    if isinstance(rows, Rows):
        assert rows.read == 1
