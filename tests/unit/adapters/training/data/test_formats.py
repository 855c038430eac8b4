"""Chats in three formats become the same conversation; calls that are written as text become calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import demo
from adapters.training.data.chat_template import Conversation, Renderer
from adapters.training.data.reader import read_conversations, read_lines
from adapters.training.data.tool_calls import looks_like_bare_call, parse_calls, split_calls
from adapters.training.errors import DataError

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "weather", "arguments": {"city": "Quito"}}
WANTED = [
    ("system", "Be brief."),
    ("user", "Weather in Quito?"),
    ("assistant", ""),
    ("tool", "rain"),
    ("assistant", "It rains."),
]
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Quito?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ],
    "tools": [TOOL],
}
SHAREGPT = {
    "system": "Be brief.",
    "tools": json.dumps([FUNCTION]),
    "conversations": [
        {"from": "human", "value": "Weather in Quito?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ],
}
PAIR = {
    "prompt": OPENAI["messages"][:4],
    "completion": OPENAI["messages"][4:],
    "tools": [TOOL],
}
AS_TEXT = {
    "messages": [
        *OPENAI["messages"][:2],
        {"role": "assistant", "content": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        *OPENAI["messages"][3:],
    ],
    "tools": [TOOL],
}


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(demo.MODEL_DIR), "<|im_end|>")


@pytest.mark.parametrize(
    ("row", "form"),
    [(OPENAI, "messages"), (SHAREGPT, "sharegpt"), (PAIR, "pairs"), (AS_TEXT, "messages")],
    ids=["openai", "sharegpt", "pair", "calls as text"],
)
def test_every_form_gives_the_same_ids(tmp_path: Path, renderer: Renderer, row: Any, form: str) -> None:
    (plain,) = read_conversations(write(tmp_path, OPENAI))
    (chat,) = read_conversations(write(tmp_path, row))
    assert chat.form == form
    assert [(m["role"], m["content"]) for m in chat.messages] == WANTED
    assert chat.tools == (TOOL,)
    assert [(t.prompt, t.target) for t in renderer.turns(chat)] == [
        (t.prompt, t.target) for t in renderer.turns(plain)
    ]


def test_a_call_is_trained_as_the_server_parses_it(tmp_path: Path, renderer: Renderer) -> None:
    (chat,) = read_conversations(write(tmp_path, AS_TEXT))
    text = renderer.tokenizer.decode(next(renderer.turns(chat)).target)
    assert text == f"<tool_call>\n{json.dumps(CALL)}\n</tool_call><|im_end|>"
    assert parse_calls(text) == [CALL]


def test_a_plain_pair_is_one_question_and_one_answer(tmp_path: Path) -> None:
    (chat,) = read_conversations(write(tmp_path, {"prompt": "Hi", "completion": "Hello", "system": "Short."}))
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x"}, "`prompt` and `completion`"),
        ({"conversations": []}, "`conversations` must be a list"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, r"conversations\[0\]: `from` is 'robot'"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "function_call is not JSON"),
        ({"prompt": 1, "completion": "x"}, "`prompt` must be text or a list"),
        (OPENAI | {"tools": "[{"}, "`tools` is not JSON"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": "<tool_call>{"},
                ]
            },
            "must hold one JSON object",
        ),
    ],
)
def test_an_unknown_format_is_an_error(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_conversations(write(tmp_path, row))


def test_good_lines_are_read_past_bad_ones(tmp_path: Path) -> None:
    found = read_lines(write(tmp_path, {"text": "x"}, OPENAI, {"messages": 3}))
    assert [type(row) for row in found] == [DataError, Conversation, DataError]


def test_text_around_calls_is_kept() -> None:
    text, calls = split_calls('I look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    assert (text, [c["function"]["name"] for c in calls]) == ("I look.", ["f"])
    assert looks_like_bare_call('{"name": "f", "arguments": {}}', {"f"})
    assert not looks_like_bare_call('{"name": "g"}', {"f"})
    assert not looks_like_bare_call("f", {"f"})
