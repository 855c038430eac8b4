"""`loragate train --check` with wrong files: never a traceback, exit code 1, and the line and field are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli.train import train

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
GOOD = json.dumps({"messages": [USER, ANSWER]})
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": 3, "parameters": {"properties": {"a": 3}}},
}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "g", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{oops", "Line 2 is not JSON"),
        ({"messages": [ANSWER]}, "Line 2: there is no user message"),
        (
            {"messages": [USER, {"role": "assistant", "content": ""}]},
            "Line 2, messages[1]: an assistant turn needs",
        ),
        ({"messages": [USER, ANSWER | {"weight": 0.5}]}, "Line 2, messages[1]: `weight` is 0.5"),
        ({"messages": [USER, CALL], "tools": [TOOL]}, "Line 2, messages[1].tool_calls[0]: 'g'; declared: f"),
        (
            {"messages": [USER, ANSWER], "tools": [TOOL]},
            "Line 2, tools[0] (f): `parameters` is no JSON schema",
        ),
        (
            {"messages": [USER, ANSWER | {"content": "a <|im_end|> b"}]},
            "Line 2, messages[1]: the answer itself",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "Line 2 has the keys `prompt`, `chosen`, `rejected`",
        ),
    ],
)
def test_one_wrong_line_is_named_among_good_ones(tmp_path: Path, row: Any, says: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join([GOOD, row if isinstance(row, str) else json.dumps(row), GOOD]))
    shown = CliRunner().invoke(train, ["--check", str(path)])
    assert shown.exit_code == 1 and isinstance(shown.exception, SystemExit)
    assert says in shown.stdout and "FAIL" in shown.stdout
    assert "3. " in shown.stdout or "2. " in shown.stdout, "the good lines are shown, too"


def test_a_greeting_is_told_and_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [ANSWER, USER, ANSWER]}))
    shown = CliRunner().invoke(train, ["--check", str(path), "--check", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "Line 1: it begins with an assistant turn, which has no prompt and is not trained" in shown.stdout


def test_a_template_that_refuses_a_chat_is_told_with_its_place(tmp_path: Path, tiny_base: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny_base.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    template = base / "chat_template.jinja"
    template.write_text(
        "{{ raise_exception('Only one question.') if messages|length > 3 }}" + template.read_text()
    )
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{GOOD}\n{json.dumps({'messages': [USER, ANSWER, USER, ANSWER]})}\n")
    shown = CliRunner().invoke(train, ["--check", str(path), "--base", str(base)])
    assert shown.exit_code == 1
    assert (
        "Line 2, messages[3]: the base's chat template refuses this chat: Only one question." in shown.stdout
    )
