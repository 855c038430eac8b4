"""Checks the tool calls in a request's history.

vLLM replaces arguments that are no JSON object by an empty object, so that the model reads a call that nobody made.
Leans on (vLLM 0.32): the wire models ChatCompletionRequest, ResponsesRequest, AnthropicMessagesRequest,
AnthropicCountTokensRequest and TokenizeChatRequest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

from server.errors import InvalidRequest

#: Characters of the arguments that the error shows.
_SHOWN: Final = 60


def check_calls(wire: type[BaseModel], body: Mapping[str, Any]) -> None:
    """Refuse calls whose arguments are no JSON object; no arguments at all (absent, null, "") are an empty one.

    Raises:
        InvalidRequest: which call, and what is wrong with its arguments.
    """
    if wire in (ChatCompletionRequest, TokenizeChatRequest):
        calls = _of_messages(body.get("messages"))
    elif wire is ResponsesRequest:
        calls = _of_items(body.get("input"))
    elif wire in (AnthropicMessagesRequest, AnthropicCountTokensRequest):
        calls = _of_blocks(body.get("messages"))
    else:
        return
    for place, name, arguments in calls:
        if fault := _fault(arguments):
            raise InvalidRequest(
                f"{place}: the arguments of the call of {name!r} are {fault}. Send a JSON object, as the model wrote "
                'it in its call, or "{}".',
                param=place,
            )


def _of_messages(messages: Any) -> Iterator[tuple[str, Any, Any]]:
    """(place, function, arguments) of each call; what has another shape is left to the wire model."""
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                place = f"messages.{at}.tool_calls.{index}.function.arguments"
                yield place, function.get("name"), function.get("arguments")


def _of_items(items: Any) -> Iterator[tuple[str, Any, Any]]:
    for at, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") == "function_call":
            yield f"input.{at}.arguments", item.get("name"), item.get("arguments")


def _of_blocks(messages: Any) -> Iterator[tuple[str, Any, Any]]:
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict) and block.get("type") == "tool_use":
                given = block.get("input")
                # Text is no object here: the Messages API has the object itself.
                is_text = isinstance(given, str)
                yield (
                    f"messages.{at}.content.{index}.input",
                    block.get("name"),
                    json.dumps(given) if is_text else given,
                )


def _fault(arguments: Any) -> str | None:
    """What is wrong with arguments, written as JSON or parsed; None if nothing is."""
    if arguments is None or arguments == "" or isinstance(arguments, dict):
        return None
    text = arguments if isinstance(arguments, str) else repr(arguments)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error}): {shown}"
    return None if isinstance(value, dict) else f"no JSON object: {shown}"
