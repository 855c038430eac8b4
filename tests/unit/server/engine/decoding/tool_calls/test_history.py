"""Calls in the history: what their arguments may be, on each endpoint that has them."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

from server.engine.decoding.tool_calls.history import check_calls
from server.errors import InvalidRequest

GOOD = ['{"city": "Paris"}', "{}", "", None, {"city": "Paris"}]
BAD = ['{"city": "Par', "[1]", "42", '"x"', "null", "Paris", [1], 42, "[" * 100_000]


def chat(arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    good = {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    return {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [good, call]}]
    }


def responses(arguments: Any) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": arguments}
    return {"input": [{"role": "user", "content": "Hi"}, call]}


def messages(arguments: Any) -> dict[str, Any]:
    blocks = [
        {"type": "text", "text": "x"},
        {"type": "tool_use", "id": "c", "name": "get_weather", "input": arguments},
    ]
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}]}


@pytest.mark.parametrize("arguments", GOOD, ids=repr)
def test_objects_and_no_arguments_are_taken(arguments: Any) -> None:
    check_calls(ChatCompletionRequest, chat(arguments))
    check_calls(ResponsesRequest, responses(arguments))


@pytest.mark.parametrize("arguments", BAD, ids=lambda arguments: repr(arguments)[:20])
@pytest.mark.parametrize(
    ("wire", "make", "place"),
    [
        (ChatCompletionRequest, chat, "messages.1.tool_calls.1.function.arguments"),
        (TokenizeChatRequest, chat, "messages.1.tool_calls.1.function.arguments"),
        (ResponsesRequest, responses, "input.1.arguments"),
        (AnthropicMessagesRequest, messages, "messages.1.content.1.input"),
        (AnthropicCountTokensRequest, messages, "messages.1.content.1.input"),
    ],
)
def test_anything_else_is_refused(wire: Any, make: Any, place: str, arguments: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_calls(wire, make(arguments))
    assert refused.value.param == place
    text = str(refused.value)
    assert "'get_weather'" in text and "JSON" in text and "Send a JSON object" in text and len(text) < 400


def test_the_messages_api_has_objects_and_no_text() -> None:
    check_calls(AnthropicMessagesRequest, messages({"city": "Paris"}))
    check_calls(AnthropicMessagesRequest, messages(None))
    with pytest.raises(InvalidRequest, match="no JSON object"):
        check_calls(AnthropicMessagesRequest, messages('{"city": "Paris"}'))


@pytest.mark.parametrize(
    "items", [None, "x", [1, "x", {}], [{"tool_calls": "x"}, {"tool_calls": [1, {}, {"function": 1}]}]]
)
def test_other_shapes_are_left_to_the_wire_model(items: Any) -> None:
    check_calls(ChatCompletionRequest, {"messages": items})
    check_calls(ResponsesRequest, {"input": items})
    check_calls(AnthropicMessagesRequest, {"messages": items})
