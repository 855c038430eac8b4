"""Reading chats: errors name line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.training.data.chat_template import Conversation
from adapters.training.data.quality import count_control_tokens
from adapters.training.data.reader import read_conversations, split_held_out
from adapters.training.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def call(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }


def test_a_chat_is_read_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "", {"messages": [USER, ANSWER]})
    assert read_conversations(path) == [Conversation((USER, ANSWER), (), 2)]


@pytest.mark.parametrize("given", ['{"a": 1}', {"a": 1}])
def test_arguments_become_objects(tmp_path: Path, given: Any) -> None:
    (chat,) = read_conversations(write(tmp_path, {"messages": [USER, call(given)]}))
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert chat.messages[1]["content"] == ""


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (chat,) = read_conversations(write(tmp_path, {"messages": [{"role": "user", "content": parts}, ANSWER]}))
    assert chat.messages[0]["content"] == "ab"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"messages": [', "Line 1 is not JSON"),
        ("[]\n[]", "Line 1 is a list, not an object"),
        ({"messages": [USER, ANSWER | {"tool_calls": 3}]}, r"messages\[1\]: `tool_calls` must be a list"),
        (
            {"messages": [USER, ANSWER | {"tool_calls": ["x"]}]},
            r"tool_calls\[0\]: `function.name` must be text",
        ),
        ({"messages": [USER | {"tool_calls": [1]}, ANSWER]}, "only the assistant calls"),
        ({"messages": [{"role": ["x"]}, ANSWER]}, r"messages\[0\]: `role` is \['x'\]"),
        ({"messages": ["x"]}, r"messages\[0\]: `role` is 'x'"),
        ({"messages": "x"}, "`messages` must be a list"),
        ({"messages": None}, "`messages` must be a list"),
        ({"messages": []}, "Line 1: `messages` must be a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\]: `role` is 'robot'"),
        ({"messages": [{"role": "user", "content": 3}, ANSWER]}, r"messages\[0\]: `content` must be text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            "only parts of type text",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": " "}]},
            r"messages\[1\]: an assistant turn needs",
        ),
        ({"messages": [USER]}, "no assistant turn"),
        ({"messages": [USER, USER, ANSWER]}, r"messages\[1\]: two user messages in a row"),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "x"}]}, "system message must come first"),
        (
            {"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]},
            r"messages\[1\]: a tool result must follow",
        ),
        ({"messages": [USER, call("{nope")]}, r"tool_calls\[0\]: `function.arguments` is not JSON"),
        ({"messages": [USER, call("[1]")]}, r"tool_calls\[0\]: `function.arguments` must be an object"),
        ({"messages": [USER, ANSWER], "tools": ["x"]}, "`tools` must be a list of objects"),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_conversations(write(tmp_path, row))


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl is not a file"):
        read_conversations(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="has no chats"):
        read_conversations(write(tmp_path, ""))


def test_the_split_goes_by_the_first_question_alone() -> None:
    def chat(question: str, answer: str) -> Conversation:
        return Conversation(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))

    chats = [chat(f"Question {i}?", "a") for i in range(400)]
    again = [chat(f"  question   {i}?", "b") for i in range(400)]
    train, held_out = split_held_out(chats, 0.1)
    train2, held_out2 = split_held_out(again, 0.1)
    assert 15 < len(held_out) < 70
    assert len(train) + len(held_out) == 400
    assert [c.messages[0]["content"] for c in held_out] == [
        "Question " + c.messages[0]["content"].split()[-1] for c in held_out2
    ]
    assert len(train) == len(train2)
    assert split_held_out(chats, 0.0) == (chats, [])


def test_control_tokens_in_text_are_counted() -> None:
    chats = [
        Conversation(({"role": "user", "content": "a<|im_end|>b"}, ANSWER)),
        Conversation((USER, ANSWER)),
    ]
    assert count_control_tokens(chats, ["<|im_end|>", "<|im_start|>"]) == 1
