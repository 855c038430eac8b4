"""Makes whole answers of vLLM's handlers say what the folded stream of the same answer says.

A long answer is read here, in slices, before the handler asks its parser for all of it in one piece.
Leans on (vLLM 0.32): OpenAIServingChat (`parser_cls`, `_make_parser`, `_effective_chat_template_kwargs`,
`chat_completion_full_generator`, `chat_completion_stream_generator`), which AnthropicServingMessages and the batch
handler inherit; AnthropicServingMessages.create_messages, which reads a whole answer in the same task; SimpleContext;
OpenAIServingResponses (`parser`, `responses_full_generator`, `_make_response_output_items`,
`_process_simple_streaming_events`); Parser.model_tokenizer; RequestOutput.outputs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from copy import copy
from typing import Any, Final

from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from starlette.datastructures import State
from vllm.entrypoints.anthropic.protocol import AnthropicContentBlock, AnthropicMessagesResponse
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionResponse,
)
from vllm.entrypoints.openai.responses.context import SimpleContext
from vllm.utils import random_uuid

from server.engine.decoding.tool_calls.parser import SLICE, FoldingParser, folding
from server.engine.decoding.tool_calls.text_after_calls import (
    collecting,
    contexts_ending_apart,
    ending_apart,
)
from server.engine.rendering.response_logprobs import contexts_with_all_logprobs, without_end_token
from server.request.event_loop import LoopTurns, pause

#: Whole answers, of all requests, that are built in one turn of the event loop; a step may end a hundred of them.
_PER_TURN: Final = 8


def install(state: State) -> None:
    """Make vLLM's handlers read the tool calls of answers in one way; see the module."""
    turns = LoopTurns(_PER_TURN)
    for name in ("openai_serving_chat", "openai_serving_chat_batch", "anthropic_serving_messages"):
        handler: Any = getattr(state, name)
        handler.parser_cls = folding(handler.parser_cls)
        handler.chat_completion_full_generator = _choice_by_choice(handler, turns)
        handler.chat_completion_stream_generator = _with_ends_apart(handler.chat_completion_stream_generator)
    _set_apart_in_messages(state.anthropic_serving_messages)
    responses: Any = state.openai_serving_responses
    responses.parser = folding(responses.parser)
    responses.responses_full_generator = _read_before(responses.responses_full_generator)
    responses._make_response_output_items = _with_text_after_calls(responses._make_response_output_items)
    stream = responses._process_simple_streaming_events
    responses._process_simple_streaming_events = lambda request, params, contexts, *others: stream(
        request, params, _prepared(request, contexts), *others
    )


def _prepared(request: Any, contexts: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The contexts of a streamed response, as the processing of its events needs them."""
    if request.is_include_output_logprobs():
        contexts = contexts_with_all_logprobs(contexts)
    return contexts_ending_apart(contexts) if request.tools else contexts


def _with_ends_apart(stream: Callable[..., Any]) -> Callable[..., Any]:
    """`chat_completion_stream_generator`, whose last chunk has no calls: text after them can stand in it."""

    def stream_with_ends_apart(request: Any, results: AsyncIterator[Any], *others: Any, **named: Any) -> Any:
        return stream(request, ending_apart(results) if request.tools else results, *others, **named)

    return stream_with_ends_apart


def _set_apart_in_messages(handler: Any) -> None:
    """Let whole messages have the text after the calls as a block of its own."""
    create = handler.create_messages

    async def create_apart(request: Any, raw_request: Any = None) -> Any:
        with collecting() as after:
            answer = await create(request, raw_request)
        if isinstance(answer, AnthropicMessagesResponse):
            answer.content += [AnthropicContentBlock(type="text", text=text) for text in after]
        return answer

    handler.create_messages = create_apart


def _with_text_after_calls(output_items: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`_make_response_output_items`, with the text after the calls as a message of its own."""

    def items_with_text_after_calls(request: Any, output: Any, *others: Any, **named: Any) -> list[Any]:
        with collecting() as after:
            items = output_items(request, without_end_token(output), *others, **named)
        return items + [_message(text) for text in after]

    return items_with_text_after_calls


def _message(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(text=text, annotations=[], type="output_text")
    return ResponseOutputMessage(
        id=f"msg_{random_uuid()}", content=[part], role="assistant", status="completed", type="message"
    )


def _choice_by_choice(handler: Any, turns: LoopTurns) -> Callable[..., Awaitable[Any]]:
    """`chat_completion_full_generator`, called for each choice alone, with a pause for the event loop after it."""
    answer: Callable[..., Awaitable[Any]] = handler.chat_completion_full_generator

    async def answer_choices(
        request: Any, results: AsyncIterator[Any], *others: Any, parser: Any = None, **named: Any
    ) -> Any:
        result = None
        async for each in results:
            result = each
        await turns.turn()
        if result is None or len(result.outputs) <= 1:
            return await _answer(answer, result, request, *others, parser=parser, **named)
        options = handler._effective_chat_template_kwargs(request)
        whole: Any = None
        for output in result.outputs:
            alone = copy(result)
            alone.outputs = [output]
            response = await _answer(answer, alone, request, *others, parser=parser, **named)
            if parser is not None:
                parser = handler._make_parser(request, parser.model_tokenizer, options)
            if not isinstance(response, ChatCompletionResponse):
                return response
            whole = _joined(whole, response)
            await pause()
        return whole

    return answer_choices


async def _answer(
    answer: Callable[..., Awaitable[Any]], result: Any, request: Any, *others: Any, parser: Any, **named: Any
) -> Any:
    """The answer with one choice, which gets the reason that the stream gives.

    vLLM says `tool_calls` in a whole answer that `max_tokens` cut after its first call, and in one that was forced
    to call and did not; a stream says `length` and `stop`.
    """

    async def results() -> AsyncGenerator[Any]:
        if result is not None:
            yield result

    if result is not None:
        await _read_ahead(parser, request, result)
    response = await answer(request, results(), *others, parser=parser, **named)
    if isinstance(response, ChatCompletionResponse):
        is_named = isinstance(request.tool_choice, ChatCompletionNamedToolChoiceParam)
        for choice, output in zip(response.choices, result.outputs, strict=True):
            is_call = output.finish_reason == "stop" and bool(choice.message.tool_calls) and not is_named
            choice.finish_reason = "tool_calls" if is_call else output.finish_reason or "stop"
    return response


def _joined(whole: Any, response: Any) -> Any:
    """The answer with the choice of another one, and with its generated tokens."""
    if whole is None:
        return response
    whole.choices += response.choices
    for name in ("completion_tokens", "total_tokens"):
        added = response.usage.completion_tokens or 0
        setattr(whole.usage, name, (getattr(whole.usage, name) or 0) + added)
    details, further = whole.usage.completion_tokens_details, response.usage.completion_tokens_details
    if details is not None and further is not None:
        details.reasoning_tokens = (details.reasoning_tokens or 0) + (further.reasoning_tokens or 0)
    return whole


def _read_before(answer: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`responses_full_generator`, whose long answer has been read when the handler asks for all of it."""

    async def answer_read_before(
        request: Any, params: Any, results: AsyncIterator[Any], context: Any, *others: Any, **named: Any
    ) -> Any:
        async def watched() -> AsyncGenerator[Any]:
            async for result in results:
                yield result
            parser = getattr(context, "response_parser", None)
            final = context.final_output if isinstance(context, SimpleContext) else None
            if final is not None and not request.stream:
                await _read_ahead(parser, request, final)

        return await answer(request, params, watched(), context, *others, **named)

    return answer_read_before


async def _read_ahead(parser: Any, request: Any, result: Any) -> None:
    """Let the parser read the one output of the result, if that is long."""
    (output,) = result.outputs
    if isinstance(parser, FoldingParser) and len(output.text) > SLICE:
        parser.set_prompt_token_ids(result.prompt_token_ids or [])
        await parser.read_ahead(output.text, request, output.token_ids)
