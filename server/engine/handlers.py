"""Calls vLLM's own OpenAI and Anthropic handlers.

They validate, render, tokenize, parse tool calls and write answers and chunks; we decide which fields and headers
they receive.
Leans on (vLLM 0.32): launchers.api_server.app_state.init_app_state, OpenAIServing{Chat,Completion,Responses,Models},
AnthropicServingMessages, ServingTokenization and their wire models (vllm.entrypoints.*).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, State
from starlette.requests import Request
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicCountTokensResponse,
    AnthropicMessagesRequest,
)
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
    TokenizeResponse,
)

from adapters.models import EngineAdapter
from sampling.endpoints import Endpoint
from server.engine.decoding.allowed_tools import narrow
from server.engine.decoding.tool_calls import answers
from server.engine.decoding.tool_calls.history import check_calls
from server.engine.errors import translate_failure, translate_validation_error
from server.engine.rendering import choices, logprobs
from server.engine.rendering.first_validation_error import check_lists
from server.engine.rendering.json_pieces import dump
from server.engine.rendering.messages import Messages
from server.engine.rendering.prompt_turns import rendering_for
from server.engine.rendering.streams import direct
from server.engine.rendering.streams.stream_events import asks_usage, public_events, refuse_before_events
from server.engine.rendering.thinking import Thinking
from server.errors import InternalError, InvalidRequest
from server.request.body import Body
from server.request.context import Answer, JsonAnswer, RequestContext, StreamAnswer
from server.request.event_loop import pause
from server.request.gate import Gate

logger = logging.getLogger("loragate.engine")

#: Fields that callers must not set: vLLM trusts them, or they bypass the gate.
_RESERVED_FIELDS = (
    "cache_salt",
    "priority",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "request_id",
    "session_id",
    "chat_template",
    "data_parallel_rank",
)


@dataclass(frozen=True, slots=True)
class _Handler:
    """One endpoint of vLLM: its wire model and the coroutine that serves it."""

    wire: type[BaseModel]
    serve: Callable[[Any, Request], Awaitable[Any]]
    check: Callable[[Mapping[str, Any]], None] | None = None
    """Refuses a body with a better reason than the wire model has."""

    def reads(self, name: str) -> bool:
        """Whether the handler uses a field of the body; vLLM's models accept unknown fields silently."""
        return name in self.wire.model_fields and name not in _RESERVED_FIELDS


class VllmHandlers:
    """The handlers of one running engine. A restarted engine gets new ones."""

    def __init__(self, state: State, messages: Messages, thinking: Thinking) -> None:
        self.models: OpenAIServingModels = state.openai_serving_models
        self._thinking = thinking
        self._base_model_name = self.models.base_model_paths[0].name
        chat = state.openai_serving_chat
        self._handlers = {
            Endpoint.CHAT: _Handler(ChatCompletionRequest, chat.create_chat_completion),
            Endpoint.COMPLETIONS: _Handler(
                CompletionRequest, state.openai_serving_completion.create_completion
            ),
            Endpoint.RESPONSES: _Handler(ResponsesRequest, state.openai_serving_responses.create_responses),
            Endpoint.MESSAGES: _Handler(AnthropicMessagesRequest, messages.create, messages.check),
        }
        tokenization = state.serving_tokenization
        self._tokenize_chat = _Handler(TokenizeChatRequest, tokenization.create_tokenize)
        self._tokenize_text = _Handler(TokenizeCompletionRequest, tokenization.create_tokenize)
        self._detokenize = _Handler(DetokenizeRequest, tokenization.create_detokenize)
        self._count = _Handler(AnthropicCountTokensRequest, messages.count, messages.check)

    @classmethod
    async def build(cls, gate: Gate, args: argparse.Namespace) -> VllmHandlers:
        """Create vLLM's handlers with the gate as their engine client."""
        state = State()
        engine = cast(Any, gate)
        await init_app_state(engine, state, args, await engine.get_supported_tasks())
        logprobs.install(state)
        choices.install(state)
        answers.install(state)
        refuse_before_events(state)
        direct.install(state)
        _yield_between_prompts(state.openai_serving_completion)
        # It renders probes: before a large prompt's renderer stands in.
        thinking = await Thinking.of(state.anthropic_serving_messages, engine, args)
        pictures = engine.model_config.supports_multimodal_inputs
        messages = Messages(state.anthropic_serving_messages, thinking, reads_pictures=pictures)
        return cls(state, messages, thinking)

    def publish(self, adapter: EngineAdapter, lora_request: Any) -> None:
        """Make a resident adapter available to the handlers under its engine name."""
        self.models.lora_requests[adapter.engine_name] = lora_request

    def withdraw(self, engine_id: int) -> None:
        """Remove the adapter of this id from the handlers; an unknown id has no effect."""
        requests = self.models.lora_requests
        for name in [name for name, request in requests.items() if request.lora_int_id == engine_id]:
            del requests[name]

    async def handle(self, context: RequestContext, headers: Headers) -> Answer:
        """Serve one request inside `Gate.admit(context)`.

        Raises:
            LoragateError: the request is refused before anything is sent.
        """
        adapter = context.held
        internal = adapter.engine_name if adapter else self._base_model_name
        request = _sanitized_request(context.request_id, headers)
        handler, body = self._handlers[context.endpoint], context.sampling.body
        with rendering_for(context.caller.tenant_name, context.body), logprobs.deferring() as deferred:
            try:
                result = await _serve(handler, {**body, "model": internal}, request)
            except InvalidRequest as error:
                if not context.usage.generated_tokens:
                    raise
                # The request was valid; it is the answer that could not be written.
                logger.exception("An answer cannot be written.", extra={"request_id": context.request_id})
                raise InternalError from error
            if isinstance(result, CompletionResponse):
                await choices.complete(result)
        ignored = (
            *(name for name in body if not handler.reads(name)),
            *self._thinking.unused(context.endpoint, body),
        )
        public = context.target.model
        if isinstance(result, BaseModel):
            deferred.take_prompt_logprobs(result)
            fill = deferred.filled if deferred.parts else None
            exclude_none = context.endpoint is Endpoint.MESSAGES
            content, pieces = await dump(result, public, fill, exclude_none=exclude_none)
            return JsonAnswer(content, ignored, pieces)
        if isinstance(result, direct.DirectStream):
            return StreamAnswer(result.events(public, null_usage=asks_usage(context)), ignored)
        events = logprobs.filled_events(
            public_events(result, internal, public, with_usage=asks_usage(context))
        )
        return StreamAnswer(events, ignored)

    async def serve(self, endpoint: Endpoint, body: dict[str, Any]) -> Any:
        """Serve the base model's answer to a body without a caller; for a worker, which renders its prompt."""
        named = {**body, "model": self._base_model_name}
        return await _serve(self._handlers[endpoint], named, _sanitized_request("worker", Headers()))

    async def tokenize(self, body: Body, request_id: str, tenant: str = "") -> TokenizeResponse:
        """Token ids of a prompt or of rendered messages. Raises: LoragateError."""
        handler = self._tokenize_chat if "messages" in body.fields else self._tokenize_text
        return cast(TokenizeResponse, await self._on_tokens(handler, body, request_id, tenant))

    async def detokenize(self, body: Body, request_id: str, tenant: str = "") -> DetokenizeResponse:
        """The text of token ids. Raises: LoragateError."""
        return cast(DetokenizeResponse, await self._on_tokens(self._detokenize, body, request_id, tenant))

    async def count_tokens(
        self, body: Body, request_id: str, tenant: str = ""
    ) -> AnthropicCountTokensResponse:
        """The length of the prompt of Anthropic's messages. Raises: LoragateError."""
        counted = await self._on_tokens(self._count, body, request_id, tenant)
        return cast(AnthropicCountTokensResponse, counted)

    async def _on_tokens(self, handler: _Handler, body: Body, request_id: str, tenant: str) -> BaseModel:
        # Every adapter uses the base model's tokenizer, so no adapter needs to be resident.
        named = {**body.fields, "model": self._base_model_name}
        with rendering_for(tenant, body):
            return cast(BaseModel, await _serve(handler, named, _sanitized_request(request_id, Headers())))


async def _serve(handler: _Handler, body: dict[str, Any], raw_request: Request) -> Any:
    """Call one of vLLM's handlers, without the reserved fields of the body.

    Raises:
        LoragateError, AdapterError: the handler refused the request or failed.
    """
    allowed = {name: value for name, value in body.items() if name not in _RESERVED_FIELDS}
    try:
        if handler.check is not None:
            handler.check(allowed)
        check_lists(handler.wire, allowed)
        check_calls(handler.wire, allowed)
        request = handler.wire.model_validate(narrow(handler.wire, allowed))
        result = await handler.serve(request, raw_request)
    except ValidationError as error:
        raise translate_validation_error(error) from error
    except Exception as error:  # vLLM passes on any error of its models, parsers and templates
        raise translate_failure(error) from error
    if isinstance(result, ErrorResponse):
        raise translate_failure(result)
    return result


def _yield_between_prompts(completion: Any) -> None:
    """Let the event loop run after each prompt of a list: the handler reads the trace headers once for each."""
    read = completion._get_trace_headers

    async def read_later(headers: Any) -> Any:
        await pause()
        return await read(headers)

    completion._get_trace_headers = read_later


def _sanitized_request(request_id: str, headers: Headers) -> Request:
    """The request that the handlers receive: our id, the trace headers, and no other header."""
    kept = [(b"x-request-id", request_id.encode())]
    kept += [
        (name.encode(), headers[name].encode("latin-1"))
        for name in ("traceparent", "tracestate")
        if name in headers
    ]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": kept, "query_string": b""})
