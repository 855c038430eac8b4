"""The gate: every token of every endpoint passes `Gate.generate`.

`Gate` stands where vLLM's handlers expect an `EngineClient`. It hands everything through to the engine that is
attached, and owns one method: `generate` reserves (so that a refusal comes before the first byte), stamps who
asks, meters the stream, and settles on every exit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sampling.limits import check_prompt
from sampling.repetition import Detector, LoopCount, Thresholds
from server.admission import Admission, Reservation
from server.errors import EngineUnavailable, LoragateError
from server.fairness.policy import STAMP_KEY, stamp
from server.request.context import RequestContext
from server.request.metering import MeteredStream, Progress

#: Key in `sampling_params.extra_args` for the action against a looping answer, read by `server.engine.decoding`.
REPETITION_KEY = "loragate_repetition"
#: Shorter than what ends an answer: a canary's circles are counted, not cut off.
_WATCH = Thresholds(window_tokens=64)
#: `SamplingParams.output_kind` of an answer that comes whole.
_WHOLE = "FINAL_ONLY"


@dataclass(slots=True)
class _AdmittedRequest:
    """One HTTP request inside the gate: its context and all that it holds there."""

    context: RequestContext
    open: list[MeteredStream] = field(default_factory=list)


_admitted: ContextVar[_AdmittedRequest] = ContextVar("loragate_visit")


class Gate:
    """vLLM's `EngineClient` for the handlers; see the module."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._engine: Any = None
        self._progress: Callable[[str], Progress | None] | None = None
        self._count_steered: Callable[[], LoopCount] | None = None

    def attach(
        self,
        engine: Any,
        *,
        progress: Callable[[str], Progress | None] | None = None,
        count_steered: Callable[[], LoopCount] | None = None,
    ) -> None:
        """Serve from this engine from now on.

        Args:
            engine: vLLM's `AsyncLLM`.
            progress: how far the generation of an id is; without it an answer that comes whole, and that its
                caller does not wait for, is counted as nothing.
            count_steered: counts answers that the engine steers out of loops; None when it does not.
        """
        self._engine = engine
        self._progress = progress
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
    async def admit(self, context: RequestContext) -> AsyncGenerator[RequestContext]:
        """Let the handlers act for `context` in this task and those it starts.

        On exit every stream that was opened is closed, which aborts what still runs in the engine, and every
        reservation is settled: also when a stream was never read, and when the caller was cancelled.
        """
        visit = _AdmittedRequest(context)
        token = _admitted.set(visit)
        try:
            yield context
        finally:
            _admitted.reset(token)
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
        visit = _admitted.get(None)
        if visit is None:
            raise LoragateError("A generation was asked for outside of any request.")
        engine = self._engine
        if engine is None or engine.errored:
            raise EngineUnavailable
        context = visit.context
        _check_adapter(context, arguments.get("lora_request"))
        prompt_tokens = len(prompt.get("prompt_token_ids") or ())
        check_prompt(context.limits, prompt_tokens)
        reservation = self._reserve(context, sampling_params, prompt_tokens)
        for name, value in context.unplaced.items():
            setattr(sampling_params, name, value)
        sampling_params.extra_args = {STAMP_KEY: stamp(context.caller.tenant_name, context.policy)}
        if context.repetition != "off":
            sampling_params.extra_args[REPETITION_KEY] = context.repetition
        # NOTE: `AsyncLLM.abort` ends every request that was given this id, and the handler's holds what the caller
        # sent as X-Request-Id: with it, one tenant's disconnect could abort another's answer.
        engine_id = f"{request_id}-{uuid4().hex}"
        stream = engine.generate(
            {**prompt, "cache_salt": context.cache_salt},
            sampling_params,
            engine_id,
            **{name: value for name, value in arguments.items() if name in _TRUSTED_ARGUMENTS},
        )
        metered = MeteredStream(
            stream,
            reservation,
            context.usage,
            lambda: engine.abort(engine_id),
            n=sampling_params.n,
            progress=self._progress_of(engine_id, sampling_params),
            steered=self._count_steered() if self._count_steered and context.repetition == "adjust" else None,
            looped=LoopCount(_new_watch, _loops) if context.target.watched else None,
        )
        visit.open.append(metered)
        return metered.read()

    def _progress_of(self, engine_id: str, sampling_params: Any) -> Callable[[], Progress | None] | None:
        """Where to look for the tokens of an answer that comes whole; a stream shows them by itself."""
        progress = self._progress
        if progress is None or sampling_params.output_kind.name != _WHOLE:
            return None
        return lambda: progress(engine_id)

    def _reserve(self, context: RequestContext, sampling_params: Any, prompt_tokens: int) -> Reservation:
        """Reserve what this generation may use at most.

        A request that names no max_tokens gets vLLM's default, what is left of the model's length; a tenant
        with a smaller limit could never be given that, so it gets what does fit.
        """
        n = sampling_params.n
        if not context.max_tokens_named:
            fitting = self._admission.fitting_max_tokens(context.policy, prompt_tokens=prompt_tokens, n=n)
            sampling_params.max_tokens = max(1, min(sampling_params.max_tokens, fitting))
        return self._admission.reserve(
            context.caller.tenant_name,
            context.policy,
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


def _check_adapter(context: RequestContext, lora_request: Any) -> None:
    """The handlers must ask for the version that this request holds, and no other."""
    held = context.held
    asked = lora_request.lora_name if lora_request is not None else None
    if asked != (held.engine_name if held else None):
        raise LoragateError("The handler asked for an adapter that this request does not hold.")
