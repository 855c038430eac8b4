"""The gate: every token of every endpoint passes `Gate.generate`.

`Gate` stands where vLLM's handlers expect an `EngineClient`. It hands everything through to the engine that is
attached, and owns one method: `generate` reserves (so that a refusal comes before the first byte), stamps who
asks, meters the stream, and settles on every exit.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sampling.limits import check_prompt
from sampling.repetition import Detector, LoopCount, Thresholds
from server.admission import Admission, Reservation
from server.errors import EngineUnavailable, LoragateError
from server.fairness.policy import stamp
from server.records import Meter, Passage

#: Key under which tenant and policy ride in `sampling_params.extra_args`; the scheduler reads it.
EXTRA_ARGS_KEY = "loragate"
#: The same for what is done when the answer goes in circles; `server.engine.repetition` reads it.
REPETITION_KEY = "loragate_repetition"
#: How an answer ends that vLLM, or `server.engine.repetition`, has ended because it loops.
REPETITION = "repetition"
#: Shorter than what ends an answer: a canary's circles are counted, not cut off.
_WATCH = Thresholds(window_tokens=64)
#: What a client is told instead: an answer that was cut off, which is what it is. OpenAI knows no other word,
#: and "stop" would say that it is whole.
_TOLD_FOR_REPETITION = "length"


@dataclass(slots=True)
class _Visit:
    """One HTTP request inside the gate: its passage and all that it holds there."""

    passage: Passage
    open: list[_Metered] = field(default_factory=list)


_visit: ContextVar[_Visit] = ContextVar("loragate_visit")


class Gate:
    """vLLM's `EngineClient` for the handlers; see the module."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._engine: Any = None
        self._count_steered: Callable[[], LoopCount] | None = None

    def attach(self, engine: Any, *, count_steered: Callable[[], LoopCount] | None = None) -> None:
        """Serve from this engine from now on; `count_steered` is there when it steers answers out of loops."""
        self._engine = engine
        self._count_steered = count_steered

    def detach(self) -> None:
        """No engine is there: `generate` refuses until the next `attach`."""
        self._engine = None

    def __getattr__(self, name: str) -> Any:
        """Everything but `generate` is the engine's own."""
        engine = self.__dict__.get("_engine")
        if engine is None:
            raise EngineUnavailable
        return getattr(engine, name)

    @asynccontextmanager
    async def admit(self, passage: Passage) -> AsyncGenerator[Passage]:
        """Let the handlers act for `passage` in this task and those it starts.

        On exit every stream that was opened is closed, which aborts what still runs in the engine, and every
        reservation is settled: also when a stream was never read, and when the caller was cancelled.
        """
        visit = _Visit(passage)
        token = _visit.set(visit)
        try:
            yield passage
        finally:
            _visit.reset(token)
            for stream in visit.open:
                await stream.aclose()

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **arguments: Any
    ) -> AsyncGenerator[Any]:
        """Admit one generation and return its metered stream.

        A plain function on purpose: vLLM's handlers call it before they send the first byte, so what is
        raised here becomes a status code.

        Args:
            prompt: vLLM's `EngineInput`, tokenized.
            sampling_params: vLLM's `SamplingParams`; what the caller smuggled into it is removed.
            request_id: the handler's id for this generation; the engine gets one that is surely its own.
            arguments: the rest of `EngineClient.generate`; only those we trust go on.

        Raises:
            LoragateError: the request may not enter, or no engine is there.
            LimitExceeded: the prompt is longer than the operator allows.
        """
        visit = _visit.get(None)
        if visit is None:
            raise LoragateError("A generation was asked for outside of any request.")
        engine = self._engine
        if engine is None or engine.errored:
            raise EngineUnavailable
        passage = visit.passage
        _check_adapter(passage, arguments.get("lora_request"))
        prompt_tokens = len(prompt.get("prompt_token_ids") or ())
        check_prompt(passage.limits, prompt_tokens)
        reservation = self._reserve(passage, sampling_params, prompt_tokens)
        for name, value in passage.unplaced.items():
            setattr(sampling_params, name, value)
        sampling_params.extra_args = {EXTRA_ARGS_KEY: stamp(passage.caller.tenant_name, passage.policy)}
        if passage.repetition != "off":
            sampling_params.extra_args[REPETITION_KEY] = passage.repetition
        # NOTE: `AsyncLLM.abort` ends every request that was given this id, and the handler's holds what the caller
        # sent as X-Request-Id: with it, one tenant's disconnect could abort another's answer.
        engine_id = f"{request_id}-{uuid4().hex}"
        stream = engine.generate(
            {**prompt, "cache_salt": passage.cache_salt},
            sampling_params,
            engine_id,
            **{name: value for name, value in arguments.items() if name in _TRUSTED_ARGUMENTS},
        )
        metered = _Metered(
            stream,
            reservation,
            passage.meter,
            lambda: engine.abort(engine_id),
            n=sampling_params.n,
            steered=self._count_steered() if self._count_steered and passage.repetition == "adjust" else None,
            looped=LoopCount(_new_watch, _loops) if passage.target.watched else None,
        )
        visit.open.append(metered)
        return metered.read()

    def _reserve(self, passage: Passage, sampling_params: Any, prompt_tokens: int) -> Reservation:
        """Reserve what this generation may use at most.

        A request that names no max_tokens gets vLLM's default, what is left of the model's length; a tenant
        with a smaller limit could never be given that, so it gets what does fit.
        """
        n = sampling_params.n
        if not passage.max_tokens_named:
            fitting = self._admission.fitting_max_tokens(passage.policy, prompt_tokens=prompt_tokens, n=n)
            sampling_params.max_tokens = max(1, min(sampling_params.max_tokens, fitting))
        return self._admission.reserve(
            passage.caller.tenant_name,
            passage.policy,
            prompt_tokens=prompt_tokens,
            max_tokens=sampling_params.max_tokens,
            n=n,
        )


#: The rest (priority, data_parallel_rank, session_id, kv_hints, …) comes from headers and bodies of callers.
_TRUSTED_ARGUMENTS = {
    "prompt_text",
    "lora_request",
    "tokenization_kwargs",
    "trace_headers",
    "reasoning_ended",
    "reasoning_parser_kwargs",
}


def _new_watch() -> Detector:
    return Detector(_WATCH)


def _loops(detector: Detector) -> bool:
    return detector.verdict is not None


def _check_adapter(passage: Passage, lora_request: Any) -> None:
    """The handlers must ask for the version that this request holds, and no other."""
    held = passage.held
    asked = lora_request.lora_name if lora_request is not None else None
    if asked != (held.engine_name if held else None):
        raise LoragateError("The handler asked for an adapter that this request does not hold.")


class _Metered:
    """One stream of the engine, counted while it is read and settled once."""

    def __init__(
        self,
        stream: AsyncGenerator[Any],
        reservation: Reservation,
        meter: Meter,
        abort: Callable[[], Awaitable[None]],
        *,
        n: int,
        steered: LoopCount | None,
        looped: LoopCount | None,
    ) -> None:
        self._stream = stream
        self._reservation = reservation
        self._meter = meter
        self._abort = abort
        self._steered = steered
        self._looped = looped
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._last_at = [0.0] * n  # when each sequence's last token came

    async def read(self) -> AsyncGenerator[Any]:
        """The engine's outputs, unchanged but for the word for an answer that was ended because it loops."""
        async with aclosing(self._stream) as stream:
            async for output in stream:
                self._count(output)
                yield output
        self._settle()

    async def aclose(self) -> None:
        """Abort what still runs and settle; harmless after a stream that was read to its end."""
        try:
            await self._stream.aclose()
        except RuntimeError:  # a task of the handler is still waiting inside the stream
            await self._abort()
        finally:
            self._settle()

    def _count(self, output: Any) -> None:
        """Add one `RequestOutput`; streams carry deltas, the others one final output per sequence."""
        now = time.monotonic()
        meter = self._meter
        new_tokens = 0
        for sequence in output.outputs:
            if tokens := len(sequence.token_ids):
                new_tokens += tokens
                if before := self._last_at[sequence.index]:
                    meter.gap_s.add((now - before) / tokens, tokens)
                self._last_at[sequence.index] = now
            if self._steered is not None and self._steered.push(sequence.index, sequence.token_ids):
                meter.answers_steered += 1
            if self._looped is not None and self._looped.push(sequence.index, sequence.token_ids):
                meter.answers_looped += 1
            if sequence.finish_reason:
                meter.finish_reasons.append(sequence.finish_reason)
                if sequence.finish_reason == REPETITION:
                    sequence.finish_reason = _TOLD_FOR_REPETITION
        if self._prompt_tokens == 0 and output.prompt_token_ids:
            self._prompt_tokens = len(output.prompt_token_ids)
            self._cached_tokens = output.num_cached_tokens or 0
            meter.prompt_tokens += self._prompt_tokens
            meter.cached_tokens += self._cached_tokens
        self._generated_tokens += new_tokens
        meter.generated_tokens += new_tokens
        if new_tokens:
            meter.last_token_at = now
            if meter.first_token_at is None:
                self._note_first(output.metrics, now)

    def _note_first(self, stats: Any, now: float) -> None:
        """When the first token came, and how long the request had waited in the engine.

        An answer that is not streamed comes whole, so the engine's own clock (the machine's monotonic one, as
        ours) tells when its first token was there.
        """
        meter = self._meter
        known = stats is not None and stats.first_token_ts
        meter.first_token_at = min(now, stats.first_token_ts) if known else now
        if stats is not None and stats.scheduled_ts and stats.queued_ts:
            meter.scheduled_at = stats.scheduled_ts
            meter.queue_s = stats.scheduled_ts - stats.queued_ts

    def _settle(self) -> None:
        self._reservation.settle(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )
