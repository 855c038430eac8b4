"""Replaces the stream generators of vLLM's chat and completion handlers for the streams that `chunks` can write.

These are most streams: no tools, no reasoning, no log-probabilities, no echo, no token ids. All others stay on vLLM's
generators.

Leans on (vLLM 0.32): OpenAIServingChat.chat_completion_stream_generator and
OpenAIServingCompletion.completion_stream_generator (their arguments), `parser_cls`, `get_chat_request_role`,
`system_fingerprint`, `enable_prompt_tokens_details`, `enable_per_request_metrics`, `enable_log_outputs`,
`create_streaming_error_response`, `_convert_generation_error_to_streaming_response`, should_include_usage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.serve.utils.api_utils import should_include_usage
from vllm.exceptions import GenerationError

from server.engine.decoding.tool_calls.parser import FoldingParser
from server.engine.rendering.streams import shortcut
from server.engine.rendering.streams.chat_chunks import ChatChunkWriter
from server.engine.rendering.streams.chunks import ChunkOptions, ChunkWriter
from server.engine.rendering.streams.completion_chunks import CompletionChunkWriter
from server.request.context import PartWriter

logger = logging.getLogger("loragate.engine")

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class DirectStream:
    """A stream that waits for the public name of its model."""

    handler: Any
    request: Any
    results: AsyncIterator[Any]
    request_id: str
    internal: str
    make: Callable[[ChunkOptions], ChunkWriter]

    def writer(self, public: str, *, null_usage: bool) -> ChunkWriter:
        """Create the writer of the events.

        Args:
            public: the model's name in the chunks.
            null_usage: the chunks before the one with the usage have a usage that is null.
        """
        return self.make(self._options(public, null_usage))

    def shortcut(self, writer: ChunkWriter) -> Callable[[PartWriter], None]:
        """Lets outputs go past `events` (`StreamAnswer.shortcut`)."""
        return shortcut.of(self.handler.engine_client, writer)

    async def events(self, writer: ChunkWriter) -> AsyncGenerator[str]:
        """The events of the outputs that are read here, those of one output in one text."""
        handler = self.handler
        failure: str | None = None
        try:
            async for result in self.results:
                writer.write(result)
                # The end is sent when the engine's stream has ended, which settles what the request has used.
                if not result.finished and (text := writer.take()):
                    yield text
            writer.finish()
        except GenerationError as error:
            failure = handler._convert_generation_error_to_streaming_response(error)
        except Exception as error:  # as vLLM's generators: the event becomes an answer in our shape
            logger.exception("A stream has failed.", extra={"request_id": self.request_id})
            failure = handler.create_streaming_error_response(error)
        if failure is None:
            yield writer.take() + DONE
            return
        if text := writer.take():
            yield text
        yield f"data: {failure}\n\n"
        yield DONE

    def _options(self, public: str, null_usage: bool) -> ChunkOptions:
        request, handler = self.request, self.handler
        with_usage, with_running_usage = should_include_usage(
            request.stream_options, handler.enable_force_include_usage
        )
        return ChunkOptions(
            id=self.request_id,
            internal=self.internal,
            public=public,
            n=request.n or 1,
            with_usage=with_usage,
            with_running_usage=with_running_usage,
            null_usage=null_usage,
            fingerprint=handler.system_fingerprint,
            details=handler.enable_prompt_tokens_details,
            raise_if_error=handler._raise_if_error,
        )


def install(state: State) -> None:
    """Let the two handlers return a `DirectStream` where one can be written."""
    chat, completion = state.openai_serving_chat, state.openai_serving_completion
    chat.chat_completion_stream_generator = _chat(chat, chat.chat_completion_stream_generator)
    completion.completion_stream_generator = _completion(completion, completion.completion_stream_generator)


def _chat(handler: Any, generate: Callable[..., Any]) -> Callable[..., Any]:
    parser = handler.parser_cls
    is_readable = (
        isinstance(parser, type)
        and issubclass(parser, FoldingParser)
        and parser.reasoning_parser_cls is None
        and not handler._include_reasoning_tokens_details
        and _is_silent(handler)
    )

    def stream(
        request: Any, results: AsyncIterator[Any], request_id: str, model: str, *rest: Any, **named: Any
    ) -> Any:
        others = request.tools or request.echo or request.logprobs or request.return_prompt_text
        if not is_readable or others or request.return_token_ids or named.get("mm_token_counts"):
            return generate(request, results, request_id, model, *rest, **named)
        role = handler.get_chat_request_role(request)
        return DirectStream(
            handler,
            request,
            results,
            request_id,
            model,
            lambda it: ChatChunkWriter(it, int(time.time()), role),
        )

    return stream


def _completion(handler: Any, generate: Callable[..., Any]) -> Callable[..., Any]:
    is_readable = _is_silent(handler)

    def stream(
        request: Any,
        prompts: Any,
        results: AsyncIterator[tuple[int, Any]],
        request_id: str,
        created: int,
        model: str,
        **named: Any,
    ) -> Any:
        others = request.echo or request.logprobs is not None or request.return_token_ids
        if not is_readable or others or named["num_prompts"] != 1:
            return generate(request, prompts, results, request_id, created, model, **named)
        return DirectStream(
            handler,
            request,
            _only(results),
            request_id,
            model,
            lambda it: CompletionChunkWriter(it, created),
        )

    return stream


def _is_silent(handler: Any) -> bool:
    """Whether the handler neither logs outputs nor reports metrics per request."""
    return not handler.enable_per_request_metrics and not getattr(handler, "enable_log_outputs", False)


async def _only(results: AsyncIterator[tuple[int, Any]]) -> AsyncGenerator[Any]:
    """The results of the one prompt."""
    async for _, result in results:
        yield result
