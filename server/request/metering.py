"""One stream of the engine: counted while it is read, settled once, and paid for also when nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sampling.repetition import LoopCount
from server.admission import Reservation
from server.request.context import UsageCounters

#: How an answer ends that vLLM, or `server.engine.decoding.repetition`, has ended because it loops.
REPETITION = "repetition"
#: What a client is told instead: an answer that was cut off, which is what it is. OpenAI knows no other word,
#: and "stop" would say that it is whole.
_TOLD_FOR_REPETITION = "length"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation is whose first token is there."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    stats: Any
    """vLLM's `RequestStateStats`."""


class MeteredStream:
    """One stream of the engine, counted while it is read and settled once."""

    def __init__(
        self,
        stream: AsyncGenerator[Any],
        reservation: Reservation,
        usage: UsageCounters,
        abort: Callable[[], Awaitable[None]],
        *,
        n: int,
        progress: Callable[[], Progress | None] | None,
        steered: LoopCount | None,
        looped: LoopCount | None,
    ) -> None:
        """
        Args:
            stream: the engine's outputs.
            reservation: settled when the stream ends.
            usage: of the HTTP request.
            abort: ends the generation in the engine.
            n: sequences of this generation.
            progress: for an answer that comes whole, whose tokens no output shows before the last one; None for
                one that is streamed.
            steered: counts answers that were steered out of a loop.
            looped: counts answers that went in circles.
        """
        self._stream = stream
        self._reservation = reservation
        self._usage = usage
        self._abort = abort
        self._progress = progress
        self._steered = steered
        self._looped = looped
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._read_tokens = 0  # of the generated ones, those that came out of the stream
        self._last_at = [0.0] * n  # when each sequence's last token came
        if progress is not None:
            usage.unseen.append(self.look)

    async def read(self) -> AsyncGenerator[Any]:
        """The engine's outputs, unchanged but for the word for an answer that was ended because it loops."""
        async with aclosing(self._stream) as stream:
            async for output in stream if self._progress is None else self._whole(stream):
                self._count(output)
                yield output
        self._settle()

    async def aclose(self) -> None:
        """Abort what still runs and settle; harmless after a stream that was read to its end."""
        self.look()
        try:
            await self._stream.aclose()
        except RuntimeError:  # a task of the handler is still waiting inside the stream
            await self._abort()
        finally:
            self._settle()

    def look(self) -> None:
        """Count what the engine has generated so far of an answer that comes whole."""
        if self._progress is None or (seen := self._progress()) is None:
            return
        self._enter(seen.prompt_tokens, seen.cached_tokens)
        self._grow(seen.generated_tokens)
        if self._usage.first_token_at is None:
            self._note_first(seen.stats, time.monotonic())

    async def _whole(self, stream: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """`stream`, which hears of a cancellation after its tokens are counted: the engine forgets them then."""
        while True:
            output = asyncio.ensure_future(_next(stream))
            try:
                await asyncio.shield(output)
            except asyncio.CancelledError:
                self.look()
                output.cancel()
                await asyncio.gather(output, return_exceptions=True)
                raise
            if output.result() is None:
                return
            yield output.result()

    def _count(self, output: Any) -> None:
        """Add one `RequestOutput`; streams carry deltas, the others one final output per sequence."""
        now = time.monotonic()
        usage = self._usage
        new_tokens = 0
        for sequence in output.outputs:
            if tokens := len(sequence.token_ids):
                new_tokens += tokens
                if before := self._last_at[sequence.index]:
                    usage.gap_s.add((now - before) / tokens, tokens)
                self._last_at[sequence.index] = now
            if self._steered is not None and self._steered.push(sequence.index, sequence.token_ids):
                usage.answers_steered += 1
            if self._looped is not None and self._looped.push(sequence.index, sequence.token_ids):
                usage.answers_looped += 1
            if sequence.finish_reason:
                usage.finish_reasons.append(sequence.finish_reason)
                if sequence.finish_reason == REPETITION:
                    sequence.finish_reason = _TOLD_FOR_REPETITION
        if output.prompt_token_ids:
            self._enter(len(output.prompt_token_ids), output.num_cached_tokens or 0)
        self._read_tokens += new_tokens
        self._grow(self._read_tokens)
        if new_tokens:
            usage.last_token_at = now
            if usage.first_token_at is None:
                self._note_first(output.metrics, now)

    def _enter(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine has taken the prompt; it is counted once."""
        if self._prompt_tokens == 0:
            self._prompt_tokens, self._cached_tokens = prompt_tokens, cached_tokens
            self._usage.prompt_tokens += prompt_tokens
            self._usage.cached_tokens += cached_tokens

    def _grow(self, generated_tokens: int) -> None:
        """So many tokens are there by now."""
        grown = max(0, generated_tokens - self._generated_tokens)
        self._generated_tokens += grown
        self._usage.generated_tokens += grown

    def _note_first(self, stats: Any, now: float) -> None:
        """When the first token came, and how long the request had waited in the engine.

        An answer that is not streamed comes whole, so the engine's own clock (the machine's monotonic one, as
        ours) tells when its first token was there.
        """
        usage = self._usage
        known = stats is not None and stats.first_token_ts
        usage.first_token_at = min(now, stats.first_token_ts) if known else now
        if stats is not None and stats.scheduled_ts and stats.queued_ts:
            usage.scheduled_at = stats.scheduled_ts
            usage.queue_s = stats.scheduled_ts - stats.queued_ts

    def _settle(self) -> None:
        self._reservation.settle(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )


async def _next(stream: AsyncGenerator[Any]) -> Any:
    return await anext(stream, None)
