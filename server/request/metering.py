"""Metering of one engine stream: tokens are counted as they are read, and the reservation is settled once.

The tokens of an answer whose caller has disconnected are counted too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampling.repetition_detector import RepetitionCount, RepetitionDetector, Thresholds
from server.admission import Reservation
from server.request.event_loop import pause
from server.request.latency_histogram import GAP_BOUNDS_S, LatencyHistogram

#: Finish reason of an answer that vLLM, or `server.engine.decoding.repetition_steering`, has ended because it loops.
REPETITION = "repetition"
#: The client gets this reason instead, because the answer was cut off: OpenAI's API has no other one, and "stop"
#: would mean that the answer is complete.
_PUBLIC_REPETITION = "length"


#: A shorter window than the one that ends an answer: a canary's repetition is counted, the answer is not cut off.
_CANARY_THRESHOLDS = Thresholds(window_tokens=64)


@dataclass(slots=True)
class UsageCounters:
    """What one HTTP request has used so far. Times are `time.monotonic()` seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    answers_steered: int = 0
    """Answers that the engine steered out of a repetition loop (`repetition: "adjust"`)."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    held_at: float | None = None
    """When the adapter was resident and the gate had admitted the request."""
    lease_s: float = 0.0
    """The wait for a part of a limit that several servers share."""
    scheduled_at: float | None = None
    queue_s: float | None = None
    gap_s: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(GAP_BOUNDS_S))
    """Seconds between two tokens of a streamed answer."""
    has_form: bool = False
    """Whether the caller prescribed a form (schema, expression, grammar), which then decides what the answer says."""
    answers_looped: int = 0
    """Answers that repeated themselves; counted only where the target's traffic is split."""
    unstreamed: list[Callable[[], None]] = field(default_factory=list)
    """One function per unstreamed answer, which counts the tokens that the engine has generated so far."""

    def refresh(self) -> None:
        """Count what the engine has generated so far of unstreamed answers."""
        for count in self.unstreamed:
            count()


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a generation that has its first token."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    stats: Any
    """vLLM's `RequestStateStats`."""


class Shadowed(Protocol):
    """The answer to a request of which a copy goes to another version (`server.background.shadows`)."""

    def add(self, output: Any, now: float) -> None:
        """Note one output of the engine."""

    def end(self) -> None:
        """The answer is complete. Not called for one that was cut off."""


@dataclass(slots=True, eq=False)
class MeteredStream:
    """One engine stream; see the module."""

    stream: AsyncGenerator[Any]
    """The engine's outputs."""
    reservation: Reservation
    """Settled when the stream ends."""
    usage: UsageCounters
    """Of the HTTP request."""
    abort: Callable[[], Awaitable[None]]
    """Ends the generation in the engine."""
    n: int
    """Sequences of this generation."""
    progress: Callable[[], Progress | None] | None
    """For an unstreamed answer, whose tokens appear only in its last output; None for a stream."""
    steered: RepetitionCount | None
    """Counts answers that were steered out of a loop."""
    looped: RepetitionCount | None
    """Counts answers that repeat themselves."""
    shadowed: Shadowed | None = None
    starts_later: bool = False
    """Whether others start before it: the prompts of one request must not all start in one turn of the event loop."""
    _prompt_tokens: int = 0
    _cached_tokens: int = 0
    _generated_tokens: int = 0
    _read_tokens: int = 0  # those of the generated tokens that were read from the stream
    _last_at: list[float] = field(init=False)  # the time of each sequence's last token

    def __post_init__(self) -> None:
        self._last_at = [0.0] * self.n
        if self.progress is not None:
            self.usage.unstreamed.append(self.refresh)

    async def read(self) -> AsyncGenerator[Any]:
        """The engine's outputs, unchanged except for the finish reason of a looping answer."""
        if self.starts_later:
            await pause()
        async with aclosing(self.stream) as stream:
            async for output in stream if self.progress is None else self._read_whole(stream):
                self._count(output)
                if output.prompt_logprobs is not None and hasattr(output.prompt_logprobs, "complete"):
                    await output.prompt_logprobs.complete()  # `server.engine.rendering.prompt_logprobs`
                yield output
        self._settle()
        if self.shadowed is not None:
            self.shadowed.end()

    async def aclose(self) -> None:
        """Abort the generation if it still runs, and settle; no effect after a stream was read to its end."""
        self.refresh()
        try:
            await self.stream.aclose()
        except RuntimeError:  # a task of the handler is still waiting inside the stream
            await self.abort()
        finally:
            self._settle()

    def refresh(self) -> None:
        """Count what the engine has generated so far of an unstreamed answer."""
        if self.progress is None or (seen := self.progress()) is None:
            return
        self._count_prompt(seen.prompt_tokens, seen.cached_tokens)
        self._count_generated(seen.generated_tokens)
        if self.usage.first_token_at is None:
            self._note_first(seen.stats, time.monotonic())

    async def _read_whole(self, stream: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """`stream`, cancelled only after its tokens are counted: a cancelled engine forgets them."""
        while True:
            output = asyncio.ensure_future(_next(stream))
            try:
                await asyncio.shield(output)
            except asyncio.CancelledError:
                self.refresh()
                output.cancel()
                await asyncio.gather(output, return_exceptions=True)
                raise
            if output.result() is None:
                return
            yield output.result()

    def _count(self, output: Any) -> None:
        """Count one `RequestOutput`: a delta of a stream, or the final output of an unstreamed answer."""
        now = time.monotonic()
        if self.shadowed is not None:
            self.shadowed.add(output, now)
        usage = self.usage
        new_tokens = 0
        for sequence in output.outputs:
            if tokens := len(sequence.token_ids):
                new_tokens += tokens
                if before := self._last_at[sequence.index]:
                    usage.gap_s.add((now - before) / tokens, tokens)
                self._last_at[sequence.index] = now
            if self.steered is not None and self.steered.push(sequence.index, sequence.token_ids):
                usage.answers_steered += 1
            if self.looped is not None and self.looped.push(sequence.index, sequence.token_ids):
                usage.answers_looped += 1
            if sequence.finish_reason:
                usage.finish_reasons.append(sequence.finish_reason)
                if sequence.finish_reason == REPETITION:
                    sequence.finish_reason = _PUBLIC_REPETITION
        if not self._prompt_tokens and output.prompt_token_ids:
            self._count_prompt(len(output.prompt_token_ids), output.num_cached_tokens or 0)
        if new_tokens:
            self._read_tokens += new_tokens
            self._count_generated(self._read_tokens)
            usage.last_token_at = now
            if usage.first_token_at is None:
                self._note_first(output.metrics, now)

    def _count_prompt(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Count the prompt, once."""
        if self._prompt_tokens == 0:
            self._prompt_tokens, self._cached_tokens = prompt_tokens, cached_tokens
            self.usage.prompt_tokens += prompt_tokens
            self.usage.cached_tokens += cached_tokens

    def _count_generated(self, generated_tokens: int) -> None:
        """Count up to this total; a smaller total than before changes nothing."""
        grown = max(0, generated_tokens - self._generated_tokens)
        self._generated_tokens += grown
        self.usage.generated_tokens += grown

    def _note_first(self, stats: Any, now: float) -> None:
        """Note the time of the first token and the wait in the engine's queue.

        An unstreamed answer arrives as one output, so the engine's own clock (monotonic, the same as ours) gives
        the time of its first token.
        """
        usage = self.usage
        known = stats is not None and stats.first_token_ts
        usage.first_token_at = min(now, stats.first_token_ts) if known else now
        if stats is not None and stats.scheduled_ts and stats.queued_ts:
            usage.scheduled_at = stats.scheduled_ts
            usage.queue_s = stats.scheduled_ts - stats.queued_ts

    def _settle(self) -> None:
        self.reservation.settle(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )


def canary_loops() -> RepetitionCount:
    """Counts the answers that repeat themselves."""
    return RepetitionCount(
        lambda: RepetitionDetector(_CANARY_THRESHOLDS), lambda detector: detector.verdict is not None
    )


async def _next(stream: AsyncGenerator[Any]) -> Any:
    return await anext(stream, None)
