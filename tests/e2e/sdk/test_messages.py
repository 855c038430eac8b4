"""Anthropic's official SDK against a real server."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from server_process import ServerProcess

SUPPORT = "acme-support"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


@pytest.fixture(scope="module")
def acme(server: ServerProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="demo-acme", max_retries=0, timeout=60)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be short."},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ],
    ids=["plain", "system", "tools", "thinking"],
)
def test_the_count_of_tokens_is_the_messages_input(acme: anthropic.Anthropic, more: Any) -> None:
    counted = acme.messages.count_tokens(model=SUPPORT, messages=HELLO, **more).input_tokens
    used = acme.messages.create(model=SUPPORT, messages=HELLO, max_tokens=1100, **more).usage
    cached = (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    assert counted == used.input_tokens + cached > 0


def test_a_large_prompt_is_counted_like_a_small_one(acme: anthropic.Anthropic) -> None:
    """In a worker: a body with this many blocks is not read on the event loop."""
    blocks: Any = [{"type": "text", "text": "word "}] * 600
    large: Any = [{"role": "user", "content": blocks}]
    counted = acme.messages.count_tokens(model=SUPPORT, messages=large).input_tokens
    used = acme.messages.create(model=SUPPORT, messages=large, max_tokens=1).usage
    cached = (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    assert counted == used.input_tokens + cached > 600


def test_a_count_is_refused_like_a_message(acme: anthropic.Anthropic, server: ServerProcess) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        acme.messages.count_tokens(model="globex-tools", messages=HELLO)
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.url, api_key="demo-nobody", max_retries=0).messages.count_tokens(
            model=SUPPORT, messages=HELLO
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_forced_call_is_no_error_whatever_the_model_writes(
    acme: anthropic.Anthropic, temperature: float
) -> None:
    """The support adapter has not learnt to call tools; what it writes must not make a 400."""
    ask: Any = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "max_tokens": 200}
    forced: Any = {
        "tools": [WEATHER],
        "tool_choice": {"type": "any"},
        "extra_body": {"temperature": temperature},
    }
    answer = acme.messages.create(model=SUPPORT, **ask, **forced)
    assert answer.content and answer.stop_reason is not None
    for block in answer.content:
        assert block.type == "text" or (block.type == "tool_use" and isinstance(block.input, dict))
    cut = acme.messages.create(model=SUPPORT, **ask | {"max_tokens": 12}, **forced)
    assert cut.stop_reason == "max_tokens"


@pytest.mark.parametrize("kind", ["enabled", "disabled", "adaptive"])
def test_thinking_is_accepted_and_named_as_ignored(acme: anthropic.Anthropic, kind: str) -> None:
    thinking: Any = {"type": kind} | ({"budget_tokens": 1024} if kind == "enabled" else {})
    ask: Any = {"model": SUPPORT, "messages": HELLO, "max_tokens": 1100, "extra_body": {"temperature": 0}}
    plain = acme.messages.with_raw_response.create(**ask)
    assert "x-loragate-ignored" not in plain.headers
    told = acme.messages.with_raw_response.create(**ask, thinking=thinking, output_config={"effort": "low"})
    assert told.headers["x-loragate-ignored"] == "thinking, output_config.effort"
    assert told.parse().content == plain.parse().content
    with acme.messages.stream(**ask, thinking=thinking) as stream:
        assert stream.response.headers["x-loragate-ignored"] == "thinking"
        assert stream.get_final_message().content[0].text == plain.parse().content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"type": "image", "source": PNG}, "reads text only"),
        ({"type": "document", "source": PNG | {"media_type": "application/pdf"}}, "the document's text"),
    ],
)
def test_what_the_model_cannot_read_is_a_400_with_its_place(
    acme: anthropic.Anthropic, block: Any, sentence: str
) -> None:
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Look:"}, block]}]
    for ask in (
        lambda: acme.messages.create(model=SUPPORT, messages=asked, max_tokens=4),
        lambda: acme.messages.count_tokens(model=SUPPORT, messages=asked),
    ):
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask()
        body: Any = caught.value.body
        assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
        assert body["error"]["param"] == "messages.0.content.1.type" and sentence in body["error"]["message"]
