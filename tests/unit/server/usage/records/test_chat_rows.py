"""From requests and answers of three APIs, whole and streamed, to rows that the trainer reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.training.data.chat_template import Conversation
from adapters.training.data.reader import parse_conversation
from server.usage.records.chat_rows import NoRow, row_of
from server.usage.records.render import Exchange, render
from server.usage.records.streamed_answers import joined

CALL = {"name": "weather", "arguments": '{"city": "Quito"}'}
TOOL = {"name": "weather", "description": "Of a city.", "parameters": {"type": "object"}}
ASKED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Quito?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "19 C"},
]
CHAT = {"model": "m", "messages": ASKED, "tools": [{"type": "function", "function": TOOL}], "user": "u-7"}


def chat_answer(reason: str = "stop", **message: Any) -> dict[str, Any]:
    told = {"role": "assistant", "content": "19 degrees.", **message}
    other = {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "other"}}
    return {"choices": [other, {"index": 0, "finish_reason": reason, "message": told}]}


EXPECTED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Quito?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]},
    {"role": "tool", "tool_call_id": "c1", "content": "19 C"},
    {"role": "assistant", "content": "19 degrees."},
]
ANTHROPIC = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Quito?"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Quito"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "19 C"}]},
    ],
    "tools": [{"name": "weather", "description": "Of a city.", "input_schema": {"type": "object"}}],
}
RESPONSES = {
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Quito?"}]},
        {"type": "function_call", "call_id": "c1", **CALL},
        {"type": "function_call_output", "call_id": "c1", "output": "19 C"},
    ],
    "tools": [{"type": "function", **TOOL}],
}


def message_answer(reason: str = "end_turn") -> dict[str, Any]:
    blocks = [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "19 degrees."}]
    return {"stop_reason": reason, "content": blocks}


def response_answer(status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": "19 degrees."}]
    output = [{"type": "reasoning"}, {"type": "message", "role": "assistant", "content": content}]
    return {"status": status, "output": output}


@pytest.mark.parametrize(
    ("endpoint", "body", "answer"),
    [
        ("chat", CHAT, chat_answer()),
        ("messages", ANTHROPIC, message_answer()),
        ("responses", RESPONSES, response_answer()),
    ],
)
def test_the_same_chat_is_the_same_row_for_every_api(
    endpoint: str, body: dict[str, Any], answer: dict[str, Any]
) -> None:
    row = row_of(endpoint, body, answer)
    assert row.messages == EXPECTED
    assert row.tools == [{"type": "function", "function": TOOL}]
    read = parse_conversation({"messages": row.messages, "tools": row.tools}, 1)
    assert isinstance(read, Conversation), read


def test_calls_of_an_answer_are_kept() -> None:
    calls = [{"id": "c2", "type": "function", "function": CALL}]
    assert row_of("chat", CHAT, chat_answer("tool_calls", content=None, tool_calls=calls)).messages[-1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": calls,
    }
    used = {
        "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Quito"}}],
    }
    assert row_of("messages", ANTHROPIC, used).messages[-1]["tool_calls"] == calls
    called = {"status": "completed", "output": [{"type": "function_call", "call_id": "c2", **CALL}]}
    assert row_of("responses", RESPONSES, called).messages[-1]["tool_calls"] == calls


@pytest.mark.parametrize(
    ("endpoint", "body", "answer", "reason"),
    [
        ("chat", CHAT, chat_answer("length"), "incomplete"),
        ("chat", CHAT, chat_answer("repetition"), "incomplete"),
        ("messages", ANTHROPIC, message_answer("max_tokens"), "incomplete"),
        ("responses", RESPONSES, response_answer("incomplete"), "incomplete"),
        ("completions", {"prompt": "a"}, {"choices": []}, "unsupported"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            chat_answer(),
            "unsupported",
        ),
        ("chat", {"messages": [ASKED]}, chat_answer(), "unsupported"),  # a batch
    ],
)
def test_what_no_trainer_should_learn_has_no_row(endpoint: str, body: Any, answer: Any, reason: str) -> None:
    with pytest.raises(NoRow) as refused:
        row_of(endpoint, body, answer)
    assert refused.value.reason == reason


def events(*data: Any, name: bool = False) -> str:
    heads = (f"event: {event['type']}\n" if name else "" for event in data)
    return "".join(f"{head}data: {json.dumps(event)}\n\n" for head, event in zip(heads, data, strict=True))


def delta(index: int = 0, reason: str | None = None, **told: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": told, "finish_reason": reason}]}


def test_a_streamed_chat_is_joined() -> None:
    stream = ":\n\n" + events(
        delta(role="assistant", content=""),
        delta(content="19 "),
        delta(1, content="other"),
        delta(content="degrees."),
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"Quito"}'}}]),
        delta(reason="tool_calls"),
        delta(1, reason="stop"),
        {"choices": [], "usage": {"prompt_tokens": 1}},
    )
    message = row_of("chat", CHAT, joined("chat", stream + "data: [DONE]\n\n")).messages[-1]
    assert message["content"] == "19 degrees."
    assert message["tool_calls"] == [{"id": "c1", "type": "function", "function": CALL}]


def test_a_streamed_message_is_joined() -> None:
    stream = events(
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "19 degrees."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "c1", "name": "weather", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"city": '},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '"Quito"}'},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
        name=True,
    )
    message = row_of("messages", ANTHROPIC, joined("messages", stream)).messages[-1]
    assert (message["content"], message["tool_calls"][0]["function"]) == ("19 degrees.", CALL)


def test_a_streamed_response_is_its_last_event() -> None:
    stream = events(
        {"type": "response.created"}, {"type": "response.completed", "response": response_answer()}, name=True
    )
    assert row_of("responses", RESPONSES, joined("responses", stream)).messages == EXPECTED


@pytest.mark.parametrize(
    "stream",
    [
        events(delta(content="19"), {"error": {"message": "gone"}}),
        events(delta(content="19")),  # without its end
        "data: {half",
    ],
)
def test_a_stream_that_broke_off_has_no_row(stream: str) -> None:
    with pytest.raises(NoRow) as refused:
        row_of("chat", CHAT, joined("chat", stream))
    assert refused.value.reason == "incomplete"


def exchange(body: Any = CHAT, answer: Any = None, patterns: tuple[str, ...] = ()) -> Exchange:
    return Exchange(
        "chat", json.dumps(body).encode(), answer or chat_answer(), False, patterns, {"id": "r-1"}
    )


def test_a_line_is_redacted_and_says_what_it_is_of() -> None:
    asked = [{"role": "user", "content": "I am a@b.de, KD-123456"}]
    call = {"id": "c", "type": "function", "function": {"name": "mail", "arguments": '{"to": "c@d.de"}'}}
    answer = chat_answer("tool_calls", content="Done, a@b.de", tool_calls=[call])
    line = render(exchange({"messages": asked}, answer, (r"KD-\d+",)))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    row = json.loads(line)
    assert row["messages"][0]["content"] == "I am [email], [redacted]"
    assert row["messages"][1]["content"] == "Done, [email]"
    assert json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"to": "[email]"}
    assert row["record"] == {"id": "r-1"} and "tools" not in row
    assert isinstance(parse_conversation(line, 1), Conversation)


def test_what_the_trainer_refuses_is_not_written() -> None:
    begun = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Sure,"}]}
    with pytest.raises(NoRow) as refused:
        render(exchange(begun))
    assert refused.value.reason == "unsupported"


def test_an_answer_that_was_written_in_pieces_is_read() -> None:
    assert b"19 degrees." in render(exchange(answer=json.dumps(chat_answer())))
