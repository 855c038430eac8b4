"""Calls vLLM's own OpenAI and Anthropic handlers.

They validate, render, tokenize, parse tool calls and write answers and chunks; we decide which fields and headers
they receive.
Leans on (vLLM 0.32): launchers.api_server.app_state.init_app_state, OpenAIServing{Chat,Completion,Responses,Models},
AnthropicServingMessages, ServingTokenization and their wire models (vllm.entrypoints.*).
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, State
from starlette.requests import Request
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)

from adapters.models import EngineAdapter
from sampling.endpoints import Endpoint
from server.engine.errors import translate_failure, translate_validation_error
from server.request.context import Answer, JsonAnswer, RequestContext, StreamAnswer
from server.request.gate import Gate

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

    def reads(self, name: str) -> bool:
        """Whether the handler uses a field of the body; vLLM's models accept unknown fields silently."""
        return name in self.wire.model_fields and name not in _RESERVED_FIELDS


class VllmHandlers:
    """The handlers of one running engine. A restarted engine gets new ones."""

    def __init__(self, state: State, models: OpenAIServingModels) -> None:
        self._models = models
        self._base_model_name = models.base_model_paths[0].name
        chat, messages = state.openai_serving_chat, state.anthropic_serving_messages
        self._handlers = {
            Endpoint.CHAT: _Handler(ChatCompletionRequest, chat.create_chat_completion),
            Endpoint.COMPLETIONS: _Handler(
                CompletionRequest, state.openai_serving_completion.create_completion
            ),
            Endpoint.RESPONSES: _Handler(ResponsesRequest, state.openai_serving_responses.create_responses),
            Endpoint.MESSAGES: _Handler(AnthropicMessagesRequest, messages.create_messages),
        }
        tokenization = state.serving_tokenization
        self._tokenize_chat = _Handler(TokenizeChatRequest, tokenization.create_tokenize)
        self._tokenize_text = _Handler(TokenizeCompletionRequest, tokenization.create_tokenize)
        self._detokenize = _Handler(DetokenizeRequest, tokenization.create_detokenize)

    @classmethod
    async def build(cls, gate: Gate, args: argparse.Namespace) -> VllmHandlers:
        """Create vLLM's handlers with the gate as their engine client."""
        state = State()
        engine = cast(Any, gate)
        await init_app_state(engine, state, args, await engine.get_supported_tasks())
        return cls(state, state.openai_serving_models)

    def publish(self, adapter: EngineAdapter, lora_request: Any) -> None:
        """Make a resident adapter available to the handlers under its engine name."""
        self._models.lora_requests[adapter.engine_name] = lora_request

    def withdraw(self, engine_id: int) -> None:
        """Remove the adapter of this id from the handlers; an unknown id has no effect."""
        requests = self._models.lora_requests
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
        result = await _serve(handler, {**body, "model": internal}, request)
        ignored = tuple(name for name in body if not handler.reads(name))
        public = context.target.model
        if isinstance(result, BaseModel):
            content = result.model_dump(
                mode="json", by_alias=True, exclude_none=context.endpoint is Endpoint.MESSAGES
            )
            if "model" in content:
                content["model"] = public
            return JsonAnswer(content, ignored)
        return StreamAnswer(_events(result, internal, public), ignored)

    async def tokenize(self, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Token ids of a prompt or of rendered messages. Raises: LoragateError."""
        return await self._on_tokens(
            self._tokenize_chat if "messages" in body else self._tokenize_text, body, request_id
        )

    async def detokenize(self, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """The text of token ids. Raises: LoragateError."""
        return await self._on_tokens(self._detokenize, body, request_id)

    async def _on_tokens(self, handler: _Handler, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        # Every adapter uses the base model's tokenizer, so no adapter needs to be resident.
        named = {**body, "model": self._base_model_name}
        result = await _serve(handler, named, _sanitized_request(request_id, Headers()))
        return cast(dict[str, Any], result.model_dump(mode="json"))


async def _serve(handler: _Handler, body: dict[str, Any], raw_request: Request) -> Any:
    """Call one of vLLM's handlers, without the reserved fields of the body.

    Raises:
        LoragateError, AdapterError: the handler refused the request or failed.
    """
    allowed = {name: value for name, value in body.items() if name not in _RESERVED_FIELDS}
    try:
        request = handler.wire.model_validate(allowed)
        result = await handler.serve(request, raw_request)
    except ValidationError as error:
        raise translate_validation_error(error) from error
    except Exception as error:  # vLLM passes on any error of its models, parsers and templates
        raise translate_failure(error) from error
    if isinstance(result, ErrorResponse):
        raise translate_failure(result)
    return result


def _sanitized_request(request_id: str, headers: Headers) -> Request:
    """The request that the handlers receive: our id, the trace headers, and no other header."""
    kept = [(b"x-request-id", request_id.encode())]
    kept += [
        (name.encode(), headers[name].encode("latin-1"))
        for name in ("traceparent", "tracestate")
        if name in headers
    ]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": kept, "query_string": b""})


async def _events(stream: AsyncIterator[Any], internal: str, public: str) -> AsyncGenerator[str]:
    """Server-sent events of any endpoint, with the public model name.

    The Responses handler yields records, the others finished events. The chunks are JSON that vLLM has just
    written and contain the model name in quotes, so a text replacement is exact and needs no parsing.
    """
    quoted, wanted = f'"model":"{internal}"', f'"model":"{public}"'
    async for item in stream:
        text = (
            item
            if isinstance(item, str)
            else f"event: {item.type}\ndata: {item.model_dump_json(indent=None, by_alias=True)}\n\n"
        )
        yield text.replace(quoted, wanted, 1) if internal != public else text
