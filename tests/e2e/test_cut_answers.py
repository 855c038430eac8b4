"""Answers that something cuts, with the official clients: what they have after a stream is the whole answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from server_process import ServerProcess

MODEL = "globex-tools"
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Current weather.",
    "parameters": PARAMETERS,
}
CHAT_TOOL: Any = {"type": "function", "function": FUNCTION}
RESPONSES_TOOL: Any = {"type": "function", "strict": False} | FUNCTION
MESSAGES_TOOL: Any = {"name": "get_weather", "description": "Current weather.", "input_schema": PARAMETERS}
#: The demo's call has some 25 tokens.
CUTS = [1, 3, 8, 13, 17, 21, 23, 25, 80]


@pytest.fixture(scope="module")
def messages(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=server.url, auth_token="demo-globex", max_retries=0, timeout=60
    ) as client:
        yield client


def chat_answers(client: openai.OpenAI, **ask: Any) -> tuple[list[Any], list[Any]]:
    """(content, calls, finish reason) of each choice and the tokens: of the whole answer and of the stream."""
    ask = {"model": MODEL, "messages": ASK, "tools": [CHAT_TOOL], "temperature": 0, **ask}
    whole = client.chat.completions.create(**ask)
    state: Any = ChatCompletionStreamState()
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        state.handle_chunk(chunk)
    return _chat(whole), _chat(state.current_completion_snapshot)


def _chat(answer: Any) -> list[Any]:
    return [
        (
            choice.message.content or "",
            [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []],
            choice.finish_reason,
        )
        for choice in answer.choices
    ] + [answer.usage.completion_tokens, answer.usage.prompt_tokens]


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_chat(globex: openai.OpenAI, choice: Any) -> None:
    found = []
    for cut in CUTS:
        whole, streamed = chat_answers(globex, max_tokens=cut, tool_choice=choice)
        assert streamed == whole, cut
        content, calls, reason = whole[0]
        assert "<" not in content
        assert all(json.loads(arguments) == {"city": "Paris"} for _, arguments in calls)
        assert reason == "length" or calls
        found.append(len(calls))
    assert found[0] == 0 and found[-1] == 1, "some are cut, some are not"


def test_chat_with_stop_texts(globex: openai.OpenAI) -> None:
    calls = {}
    for stop in ("Par", "}", "</tool_call>", '"name"', "tool"):
        whole, streamed = chat_answers(globex, max_tokens=80, stop=[stop])
        assert streamed == whole, stop
        assert "<tool" not in whole[0][0]
        calls[stop] = len(whole[0][1])
    assert calls == {"Par": 0, "}": 0, "</tool_call>": 1, '"name"': 0, "tool": 0}


def test_chat_with_samples(globex: openai.OpenAI) -> None:
    for cut in (13, 80):
        whole, streamed = chat_answers(globex, max_tokens=cut, n=2, temperature=0.01, seed=1)
        assert streamed == whole and len(whole) == 4


def test_responses(globex: openai.OpenAI) -> None:
    for cut in CUTS:
        ask: Any = {
            "model": MODEL,
            "input": ASK,
            "tools": [RESPONSES_TOOL],
            "temperature": 0,
            "max_output_tokens": cut,
        }
        whole = globex.responses.create(**ask)
        with globex.responses.stream(**ask) as stream:
            streamed = stream.get_final_response()
        assert _response(streamed) == _response(whole), cut
        assert "<" not in whole.output_text


def _response(answer: Any) -> Any:
    items = [
        (item.type, item.name, item.arguments)
        if item.type == "function_call"
        else (item.type, item.content[0].text)
        for item in answer.output
    ]
    return items, answer.status, answer.usage.output_tokens, answer.usage.input_tokens


@pytest.mark.parametrize("choice", ["auto", "any"])
def test_messages(messages: anthropic.Anthropic, choice: Any) -> None:
    ask: Any = {"model": MODEL, "messages": ASK, "tools": [MESSAGES_TOOL], "tool_choice": {"type": choice}}
    ask["extra_body"] = {"temperature": 0}
    for cut in CUTS:
        whole = messages.messages.create(**ask, max_tokens=cut)
        with messages.messages.stream(**ask, max_tokens=cut) as stream:
            streamed = stream.get_final_message()
        assert _message(streamed) == _message(whole), cut
        assert "<" not in str([block.to_dict() for block in whole.content])


def _message(answer: Any) -> Any:
    blocks = [(b.type, b.text) if b.type == "text" else (b.type, b.name, b.input) for b in answer.content]
    return blocks, answer.stop_reason, answer.usage.output_tokens


def test_with_tool_choice_none_nothing_is_called(globex: openai.OpenAI, http: httpx.Client) -> None:
    whole, streamed = chat_answers(globex, max_tokens=60, tool_choice="none")
    assert (
        streamed == whole and not whole[0][1] and "<" not in whole[0][0] and "get_weather" not in whole[0][0]
    )
    offered, _ = chat_answers(globex, max_tokens=1, tool_choice="auto")
    without = globex.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)
    assert without.usage and whole[-1] == without.usage.prompt_tokens < offered[-1], (
        "the tools are not in the prompt"
    )


@pytest.mark.parametrize("arguments", ['{"city": "Par', "[1]", '"Paris"'])
def test_half_a_call_in_the_history_is_refused(globex: openai.OpenAI, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    history = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    with pytest.raises(openai.BadRequestError, match=r"get_weather.*JSON"):
        globex.chat.completions.create(model=MODEL, messages=history)
    item = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": arguments}
    with pytest.raises(openai.BadRequestError, match=r"get_weather.*JSON"):
        globex.responses.create(model=MODEL, input=[*ASK, item])
