"""The gate: every token of every endpoint passes `Gate.generate`.

`Gate` stands where vLLM's handlers expect an `EngineClient`. It delegates everything to the attached engine but
one method: `generate` reserves capacity (so that a refusal comes before the first byte), adds the tenant and its
policy to the request, meters the stream, and settles the reservation on every exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from sampling.limits import check_prompt
from sampling.repetition_detector import RepetitionCount
from server.admission import Admission, Reservation
from server.errors import EngineUnavailable, LoragateError
from server.fairness.shares import STAMP_KEY, stamp
from server.request import grammar_preparation
from server.request.context import RequestContext
from server.request.log_probabilities import bound_logprobs
from server.request.metering import MeteredStream, Progress, Shadowed, canary_loops

#: Key of the action against repetition loops; `server.engine.decoding.repetition_steering` reads it.
REPETITION_KEY = "loragate_repetition"
#: `SamplingParams.output_kind` of an unstreamed answer.
_WHOLE = "FINAL_ONLY"


@dataclass(slots=True)
class _AdmittedRequest:
    """One HTTP request inside the gate: its context and its streams."""

    context: RequestContext
    streams: list[MeteredStream] = field(default_factory=list)
    preparations: list[asyncio.Task[AsyncExitStack]] = field(default_factory=list)
    """Of the generations whose answer has a form; each ends with what it holds for the engine."""


_admitted: ContextVar[_AdmittedRequest] = ContextVar("loragate_admitted_request")


class Gate:
    """vLLM's `EngineClient` for the handlers; see the module."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._engine: Any = None
        self._progress: Callable[[str], Progress | None] | None = None
        self._count_steered: Callable[[], RepetitionCount] | None = None
        self._prepared: grammar_preparation.Prepare | None = None
        #: Whether a copy of a generation goes to another version; notes the answer to it.
        self.shadow: Callable[[RequestContext, Any, Any], Shadowed | None] = lambda *request: None

    def attach(
        self,
        engine: Any,
        *,
        progress: Callable[[str], Progress | None] | None = None,
        count_steered: Callable[[], RepetitionCount] | None = None,
        prepared: grammar_preparation.Prepare | None = None,
    ) -> None:
        """Serve from this engine from now on.

        Args:
            engine: vLLM's `AsyncLLM`.
            progress: of a generation by its id; without it an unstreamed answer that is cut off counts 0.
            count_steered: makes a counter of answers that the engine steers out of loops, if it does.
            prepared: prepares a generation's grammar (`server.engine.decoding.grammars.preparation`).
        """
        self._engine = engine
        self._progress = progress
        self._count_steered = count_steered
        self._prepared = prepared

    def detach(self) -> None:
        """Refuse every `generate` until the next `attach`."""
        self._engine = None

    def __getattr__(self, name: str) -> Any:
        """Everything but `generate` is the engine's own."""
        engine = self.__dict__.get("_engine")
        if engine is None:
            raise EngineUnavailable
        return getattr(engine, name)

    @asynccontextmanager
    async def admit(self, context: RequestContext) -> AsyncGenerator[RequestContext]:
        """Let the handlers act for `context` in this task and the tasks it starts.

        On exit every stream is closed, which aborts its generation in the engine, and every reservation is settled:
        also when a stream was never read, and when the caller was cancelled.
        """
        admitted = _AdmittedRequest(context)
        token = _admitted.set(admitted)
        try:
            yield context
        finally:
            _admitted.reset(token)
            for stream in admitted.streams:
                await stream.aclose()
            for preparation in admitted.preparations:
                await grammar_preparation.end(preparation)

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **arguments: Any
    ) -> AsyncGenerator[Any]:
        """Admit one generation and return its metered stream.

        A plain function on purpose: handlers call it before the first byte, so its errors become a status code.

        Args:
            prompt: vLLM's `EngineInput`, tokenized.
            sampling_params: vLLM's `SamplingParams`; `extra_args` of the caller are removed.
            request_id: the handler's id; the engine gets a unique one.
            arguments: the rest of `EngineClient.generate`; only trusted ones are passed on.

        Raises:
            LoragateError: the request may not enter, or there is no engine.
            LimitExceeded: the prompt is longer than the operator allows.
        """
        admitted, engine = self._enter(arguments.get("lora_request"))
        context, reservation = admitted.context, self._reserve(admitted.context, prompt, sampling_params)
        self._stamp(context, sampling_params)
        # NOTE: `AsyncLLM.abort` ends every request with this id, and the handler's id is the caller's X-Request-Id:
        # with it, one tenant's disconnect could abort another's answer.
        engine_id = f"{request_id}-{uuid4().hex}"
        trusted = {name: value for name, value in arguments.items() if name in _TRUSTED_ARGUMENTS}
        salted = {**prompt, "cache_salt": context.cache_salt}
        start = partial(engine.generate, salted, sampling_params, engine_id, **trusted)
        metered = MeteredStream(
            self._when_prepared(admitted, sampling_params, start),
            reservation,
            context.usage,
            lambda: engine.abort(engine_id),
            n=sampling_params.n,
            progress=self._progress_of(engine_id, sampling_params),
            steered=self._steered_counter(context),
            looped=canary_loops() if context.target.is_split else None,
            shadowed=self.shadow(context, prompt, sampling_params) if context.target.shadow else None,
            starts_later=bool(admitted.streams),
        )
        admitted.streams.append(metered)
        return metered.read()

    async def ready(self) -> None:
        """Wait until every generation of this task's request is prepared, before its first byte is sent.

        Raises:
            InvalidRequest, LimitExceeded, AdmissionError: the form of an answer is refused.
        """
        for preparation in _admitted.get().preparations:
            await asyncio.shield(preparation)

    def _when_prepared(
        self, admitted: _AdmittedRequest, sampling_params: Any, generate: Callable[[], AsyncGenerator[Any]]
    ) -> AsyncGenerator[Any]:
        """The engine's stream, after its grammar is prepared if it has one."""
        if self._prepared is None or sampling_params.structured_outputs is None:
            return generate()
        admitted.context.usage.has_form = True
        preparation = grammar_preparation.start(self._prepared(admitted.context, sampling_params))
        admitted.preparations.append(preparation)
        return grammar_preparation.stream_after(preparation, generate)

    def _enter(self, lora_request: Any) -> tuple[_AdmittedRequest, Any]:
        """The HTTP request that is served in this task, and the engine. Raises: LoragateError."""
        admitted = _admitted.get(None)
        if admitted is None:
            raise LoragateError("A generation was requested outside of any request.")
        if self._engine is None or self._engine.errored:
            raise EngineUnavailable
        _check_adapter(admitted.context, lora_request)
        return admitted, self._engine

    def _stamp(self, context: RequestContext, sampling_params: Any) -> None:
        """Set what the engine has to know: defaults without a field, the tenant's policy, repetition."""
        for name, value in context.sampling.unplaced.items():
            setattr(sampling_params, name, value)
        tenant, settings = context.caller.tenant_name, context.tenant_settings
        sampling_params.extra_args = {STAMP_KEY: stamp(tenant, settings, background=context.background)}
        if context.sampling.repetition != "off":
            sampling_params.extra_args[REPETITION_KEY] = context.sampling.repetition

    def _steered_counter(self, context: RequestContext) -> RepetitionCount | None:
        if self._count_steered is None or context.sampling.repetition != "adjust":
            return None
        return self._count_steered()

    def _progress_of(self, engine_id: str, sampling_params: Any) -> Callable[[], Progress | None] | None:
        """Reads the progress of an unstreamed answer; None for a stream, whose outputs show it."""
        progress = self._progress
        if progress is None or sampling_params.output_kind.name != _WHOLE:
            return None
        return lambda: progress(engine_id)

    def _reserve(self, context: RequestContext, prompt: Any, sampling_params: Any) -> Reservation:
        """Check the prompt's length; reserve the most that this generation may use and cost.

        Without max_tokens it gets of vLLM's default, the rest of the model's length, what fits.
        """
        prompt_tokens = len(prompt.get("prompt_token_ids") or ())
        check_prompt(context.limits, prompt_tokens)
        if context.background:
            return self._reserve_background(context, prompt_tokens, sampling_params)
        bound_logprobs(context.limits, context.sampling, prompt_tokens, sampling_params)
        settings, n = context.tenant_settings, sampling_params.n
        need: dict[str, Any] = {"prompt_tokens": prompt_tokens, "n": n}
        need |= {"price": context.price, "key": context.caller.key}
        if "max_tokens" not in context.sampling.origins:
            fitting = self._admission.fitting_max_tokens(settings, **need)
            sampling_params.max_tokens = max(1, min(sampling_params.max_tokens, fitting))
        tenant, max_tokens = context.caller.tenant_name, sampling_params.max_tokens
        return self._admission.reserve(tenant, settings, max_tokens=max_tokens, **need)

    def _reserve_background(
        self, context: RequestContext, prompt_tokens: int, sampling_params: Any
    ) -> Reservation:
        return self._admission.reserve_background(
            context.caller.tenant_name,
            context.tenant_settings,
            prompt_tokens=prompt_tokens,
            max_tokens=sampling_params.n * sampling_params.max_tokens,
            price=context.price,
        )


#: The others (priority, data_parallel_rank, session_id, kv_hints, …) come from callers' headers and bodies.
_TRUSTED_ARGUMENTS = frozenset(
    {"prompt_text", "lora_request", "tokenization_kwargs", "trace_headers"}
    | {"reasoning_ended", "reasoning_parser_kwargs"}
)


def _check_adapter(context: RequestContext, lora_request: Any) -> None:
    """The handlers must use the version that this request holds. Raises: LoragateError."""
    held = context.held
    used = lora_request.lora_name if lora_request is not None else None
    if used != (held.engine_name if held else None):
        raise LoragateError("The handler requested an adapter that this request does not hold.")
