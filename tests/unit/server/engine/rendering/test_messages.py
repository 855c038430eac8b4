"""Anthropic's messages with vLLM's own handler: what is refused, what has no effect, and what is no call."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm.entrypoints.generate.base.protocol import FunctionCall, ToolCall
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
)
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.exceptions import EngineDeadError

from sampling.endpoints import Endpoint
from sampling.limits import DEFAULT_LIMITS, Limits
from server.api.errors import event_failure
from server.config.settings import Settings
from server.engine.args import engine_args, frontend_args
from server.engine.handlers import VllmHandlers
from server.engine.rendering import prompt_worker_tasks as tasks
from server.errors import EngineUnavailable, InvalidRequest

LIMITS = Limits(**DEFAULT_LIMITS)
#: A template whose model thinks unless it is told not to, as Qwen3's.
THINKING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}
CALL = {"type": "tool_use", "id": "c", "name": "look", "input": {}}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


def set_up(**settings: Any) -> None:
    made = Settings(demo=True, **settings)
    arguments = engine_args(made)
    config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    tasks.setup(config, frontend_args(made, arguments))


@pytest.fixture(scope="module", autouse=True)
def plain() -> VllmHandlers:
    """The demo model's handlers."""
    set_up()
    return tasks._worker.handlers


@pytest.fixture
def thinking(tmp_path: Path) -> Iterator[VllmHandlers]:
    """Handlers with a template that knows of thinking."""
    template = tmp_path / "template.jinja"
    template.write_text(THINKING_TEMPLATE)
    before = tasks._worker
    set_up(chat_template=template)
    yield tasks._worker.handlers
    tasks._worker = before


def ids(**body: Any) -> list[int]:
    """The prompt of a message."""
    raw = {"model": "m", "max_tokens": 2000, "messages": [{"role": "user", "content": "Hello"}]} | body
    data = json.dumps(raw).encode()
    lean = tasks.read_body(data, Endpoint.MESSAGES, LIMITS)
    (prompt,) = tasks.render(data, Endpoint.MESSAGES, lean, LIMITS).engine_inputs()
    return list(prompt["prompt_token_ids"])


def content(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


def answering(result: dict[str, Any]) -> dict[str, Any]:
    """A conversation in which a tool has returned this block."""
    returned = {"type": "tool_result", "tool_use_id": "c", "content": [result]}
    return {
        "messages": [
            {"role": "user", "content": "Look"},
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [returned]},
        ]
    }


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        (content(IMAGE), "messages.0.content.0.type", "reads text only"),
        (
            content({"type": "text", "text": "x"}, DOCUMENT),
            "messages.0.content.1.type",
            "the document's text",
        ),
        (answering(IMAGE), "messages.2.content.0.content.0.type", "reads text only"),
        (answering(DOCUMENT), "messages.2.content.0.content.0.type", "the document's text"),
        ({"system": [IMAGE]}, "system.0.type", "reads text only"),
        (content(IMAGE, role="system"), "messages.0.content.0.type", "'image' is not supported"),
        (content({"type": "container_upload"}), "messages.0.content.0.type", "'container_upload' is not"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools.0.type",
            "run by Anthropic",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(
    body: dict[str, Any], param: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        ids(**body)
    assert caught.value.param == param
    counted = {"messages": [{"role": "user", "content": "Hello"}]} | body
    with pytest.raises(InvalidRequest, match=sentence):
        tasks.count_tokens(json.dumps(counted).encode(), LIMITS)


def test_what_is_supported_is_not_refused() -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    tool = {"name": "look", "type": "custom", "input_schema": {"type": "object"}}
    assert ids(**answering({"type": "text", "text": "Seen"}), tools=[tool])
    said = {
        "messages": [*content(thought, CALL, role="assistant")["messages"], {"role": "user", "content": "x"}]
    }
    assert ids(**said) and ids(
        system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"system": "Be short."},
        {"tools": [{"name": "look", "input_schema": {"type": "object"}}]},
        {"thinking": ENABLED},
    ],
)
def test_the_count_is_the_length_of_the_prompt(body: dict[str, Any]) -> None:
    sent = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]} | body
    model, answer, count = tasks.count_tokens(json.dumps(sent).encode(), LIMITS)
    assert model == "m" and json.loads(answer)["input_tokens"] == count == len(ids(**body)) > 0


@pytest.mark.parametrize("thinking", [ENABLED, {"type": "disabled"}, {"type": "adaptive"}])
def test_thinking_has_no_effect_where_the_model_has_none(
    plain: VllmHandlers, thinking: dict[str, Any]
) -> None:
    body = {"thinking": thinking, "output_config": {"effort": "high"}}
    assert plain._thinking.unused(Endpoint.MESSAGES, body) == ("thinking", "output_config.effort")
    assert ids(**body) == ids()
    assert plain._thinking.unused(Endpoint.CHAT, {"reasoning_effort": "low"}) == ("reasoning_effort",)
    assert plain._thinking.unused(Endpoint.MESSAGES, {"max_tokens": 3, "thinking": None}) == ()


def test_thinking_is_used_where_the_template_knows_of_it(thinking: VllmHandlers) -> None:
    off = {"thinking": {"type": "disabled"}}
    assert ids(**off) != ids() == ids(thinking=ENABLED)
    assert thinking._thinking.unused(Endpoint.MESSAGES, off) == ()
    assert thinking._thinking.unused(Endpoint.CHAT, {"reasoning_effort": "low"}) == ()
    # The engine has no reasoning configuration, so nothing ends the thinking after its budget.
    assert thinking._thinking.unused(Endpoint.MESSAGES, {"thinking": ENABLED}) == ("thinking.budget_tokens",)


def test_a_wrong_budget_is_refused_even_so() -> None:
    with pytest.raises(InvalidRequest, match=r"budget_tokens must be less than max_tokens"):
        ids(thinking=ENABLED, max_tokens=1024)


@pytest.mark.parametrize(
    ("arguments", "content", "reason"),
    [
        (['{"city": "Paris"}'], [("tool_use", {"city": "Paris"})], "tool_use"),
        (["true"], [("text", '{"name": "f", "input": true}')], "end_turn"),
        (['{"city": "Par'], [("text", '{"name": "f", "input": {"city": "Par}')], "end_turn"),
        (["[1]", "{}"], [("text", '{"name": "f", "input": [1]}'), ("tool_use", {})], "tool_use"),
    ],
)
def test_a_call_without_an_object_is_text(
    plain: VllmHandlers, arguments: list[str], content: list[tuple[str, Any]], reason: str
) -> None:
    calls = [ToolCall(function=FunctionCall(name="f", arguments=each)) for each in arguments]
    choice = ChatCompletionResponseChoice(
        index=0, message=ChatMessage(role="assistant", tool_calls=calls), finish_reason="tool_calls"
    )
    usage = UsageInfo(prompt_tokens=1, total_tokens=2, completion_tokens=1)
    answer = ChatCompletionResponse(model="m", choices=[choice], usage=usage)
    handler = plain._handlers[Endpoint.MESSAGES].serve.__self__._handler  # type: ignore[attr-defined]
    made = handler.messages_full_converter(answer)
    assert [(b.type, b.text if b.type == "text" else b.input) for b in made.content] == content
    assert made.stop_reason == reason


async def test_an_error_in_a_stream_keeps_its_reason(plain: VllmHandlers) -> None:
    handler = plain._handlers[Endpoint.MESSAGES].serve.__self__._handler  # type: ignore[attr-defined]
    closed = []

    async def chunks() -> AsyncGenerator[str]:
        try:
            for content in ("", "Hel"):
                choice = {"index": 0, "delta": {"role": "assistant", "content": content}}
                chunk = {
                    "id": "a",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m",
                    "choices": [choice],
                }
                yield f"data: {json.dumps(chunk)}\n\n"
            yield f"data: {handler.create_streaming_error_response(EngineDeadError())}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            closed.append(True)

    events = [event async for event in handler.message_stream_converter(chunks())]
    assert [event.split("\n")[0] for event in events[:3]] == [
        "event: message_start", "event: content_block_start", "event: content_block_delta"
    ]  # fmt: skip
    assert len(events) == 4 and isinstance(event_failure(events[3]), EngineUnavailable) and closed == [True]
