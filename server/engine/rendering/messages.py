"""Anthropic's messages beyond vLLM's handler: blocks that cannot be used are refused, and no answer is a 400.

vLLM refuses an unknown block with the reason of another type, and drops some blocks in silence: pictures in `system`,
documents in results of tools. Its conversion of a whole answer fails when the model has called a tool with something
else than an object; that of a stream loses the reason of an error.
Leans on (vLLM 0.32): AnthropicServingMessages.create_messages, count_tokens, messages_full_converter and
message_stream_converter, AnthropicContentBlock.type.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, NoReturn

from starlette.requests import Request
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest

from server.engine.rendering.thinking import Thinking
from server.errors import InvalidRequest

_PICTURE: Final = "image"
_ERROR_CHUNK: Final = 'data: {"error"'
#: The events of an empty text, which a whole answer without content has as its only block.
_EMPTY_TEXT: Final = (
    'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    '"content_block":{"type":"text","text":""}}\n\n',
    'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
)
#: The types of blocks by place; vLLM reads all others as an error, or not at all.
_IN_SYSTEM: Final = frozenset({"text"})
_IN_SYSTEM_MESSAGE: Final = frozenset({"text", "tool_addition", "tool_removal"})
_IN_RESULT: Final = frozenset({"text", "tool_reference"})
_IN_MESSAGE: Final = frozenset(
    {"text", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking"}
)
_HINTS: Final = {
    _PICTURE: "this model reads text only; describe the picture in a block of type 'text'",
    "document": "send the document's text in a block of type 'text'",
    "search_result": "send the result's text in a block of type 'text'",
}


class Messages:
    """vLLM's handler, with what this module adds."""

    def __init__(self, handler: Any, thinking: Thinking, *, reads_pictures: bool) -> None:
        self._handler = handler
        self._thinking = thinking
        self._reads_pictures = reads_pictures
        convert, convert_stream = handler.messages_full_converter, handler.message_stream_converter
        handler.messages_full_converter = lambda answer: convert(_with_calls_of_objects(answer))
        handler.message_stream_converter = lambda chunks: _complete(convert_stream, chunks)

    async def create(self, request: AnthropicMessagesRequest, raw_request: Request) -> Any:
        """The answer, or its events."""
        self._thinking.remove_unused(request)
        return await self._handler.create_messages(request, raw_request)

    async def count(self, request: AnthropicCountTokensRequest, raw_request: Request) -> Any:
        """The number of tokens of the prompt, as `create` would have it."""
        self._thinking.remove_unused(request)
        return await self._handler.count_tokens(request, raw_request)

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuse blocks and tools that the server cannot use, with their place. Raises: InvalidRequest."""
        for place, block in _blocks(body.get("system"), "system"):
            _check_type(place, block, _IN_SYSTEM, pictures=False)
        messages = body.get("messages")
        for at, message in enumerate(messages if isinstance(messages, list) else ()):
            if isinstance(message, Mapping):
                self._check_message(message, f"messages.{at}.content")
        tools = body.get("tools")
        for at, tool in enumerate(tools if isinstance(tools, list) else ()):
            if isinstance(tool, Mapping) and tool.get("type", "custom") != "custom":
                _refuse_tool(f"tools.{at}", tool["type"])

    def _check_message(self, message: Mapping[str, Any], place: str) -> None:
        in_system = message.get("role") == "system"
        allowed = _IN_SYSTEM_MESSAGE if in_system else _IN_MESSAGE
        for at, block in _blocks(message.get("content"), place):
            if not in_system and block.get("type") in ("tool_addition", "tool_removal"):
                continue  # vLLM says where they belong
            _check_type(at, block, allowed, pictures=self._reads_pictures and not in_system)
            if block.get("type") == "tool_result":
                for inner, part in _blocks(block.get("content"), f"{at}.content"):
                    _check_type(inner, part, _IN_RESULT, pictures=self._reads_pictures)


def _blocks(content: Any, place: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(place, block) of a content that is a list."""
    for at, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, Mapping):
            yield f"{place}.{at}", block


def _check_type(place: str, block: Mapping[str, Any], allowed: frozenset[str], *, pictures: bool) -> None:
    kind = block.get("type")
    if not isinstance(kind, str) or kind in allowed or (pictures and kind == _PICTURE):
        return  # vLLM refuses what is no text
    hint = _HINTS.get(kind) or f"blocks here may have the types {', '.join(sorted(allowed))}"
    raise InvalidRequest(
        f"{place}: a block of type {kind[:64]!r} is not supported here: {hint}.", param=f"{place}.type"
    )


def _refuse_tool(place: str, kind: Any) -> NoReturn:
    raise InvalidRequest(
        f"{place}: a tool of type {str(kind)[:64]!r} is not supported: it is defined or run by Anthropic. "
        "Use tools with a name and an input_schema, which your program runs.",
        param=f"{place}.type",
    )


async def _complete(
    convert: Callable[[AsyncGenerator[str]], AsyncGenerator[str]], chunks: AsyncGenerator[str]
) -> AsyncGenerator[str]:
    """The converted events, with a block in any case, as whole answers have one.

    An error among a chat's chunks ends them, and is passed on as it is: `server.api.errors.event_failure` reads it.
    """
    failure, has_block = "", False

    async def before_the_error() -> AsyncGenerator[str]:
        nonlocal failure
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk.startswith(_ERROR_CHUNK):
                    failure = chunk
                    return
                yield chunk

    async with aclosing(convert(before_the_error())) as events:
        async for event in events:
            has_block = has_block or event.startswith("event: content_block_start")
            if not has_block and event.startswith("event: message_delta"):
                for empty in _EMPTY_TEXT:
                    yield empty
            yield event
    if failure:
        yield failure


def _with_calls_of_objects(answer: Any) -> Any:
    """A chat's whole answer whose calls have an object as arguments; any other call is part of its text.

    Anthropic's `input` is an object. The model's own text must not make an error of a valid request.
    """
    choice = answer.choices[0]
    message = choice.message
    calls = {True: [], False: []}  # type: dict[bool, list[Any]]
    for call in message.tool_calls:
        calls[_is_object(call.function.arguments)].append(call)
    if calls[False]:
        message.tool_calls = calls[True]
        written = [
            f'{{"name": {json.dumps(c.function.name)}, "input": {c.function.arguments}}}'
            for c in calls[False]
        ]
        message.content = "\n".join([*filter(None, [message.content]), *written])
        if not calls[True] and choice.finish_reason == "tool_calls":
            choice.finish_reason = "stop"
    return answer


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False
