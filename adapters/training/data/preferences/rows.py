"""Rows with a better answer, a worse one, or both, as chats.

- ``{"prompt", "chosen", "rejected"}``: each a text or messages; also question, query, instruction, input; ``system``
  and ``tools`` beside them
- ``{"chosen", "rejected"}``: two whole chats that differ in their last turn
- ``{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}``, OpenAI's
- ``{…, "label": true}`` beside any chat (KTO): ``false`` marks a worse answer
- any chat that a training reads: its last turn is a better answer, such as a row of ``loragate feedback export``;
  ``rejected`` beside ``messages`` is the worse one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.training.data.chat_template import Conversation
from adapters.training.data.files import RawRow, parse_row, raw_rows
from adapters.training.data.formats import as_messages, form_of
from adapters.training.data.formats.row import Row
from adapters.training.data.reader import conversation_of
from adapters.training.errors import DataError

_PROMPTS = ("prompt", "question", "query", "instruction", "input")
_REJECTED = ("rejected", "rejected_response")
_FORMS = (
    "A row needs `prompt`, `chosen` and `rejected`, or `chosen` and `rejected` as whole chats, or a chat with a "
    "`label` or as `loragate feedback export` writes it"
)


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """The chats of one row; each ends with the answer to compare, and at least one is there."""

    chosen: Conversation | None
    rejected: Conversation | None
    line: int
    form: str


def read_preference_rows(path: Path) -> list[PreferenceRow | DataError]:
    """Every row, or the error in it.

    Raises:
        DataError: the file is missing, empty, of another kind, or damaged.
    """
    rows = [parse_preference(raw, line) for line, raw in raw_rows(path)]
    if not rows:
        raise DataError(f"{path.name} has no rows. Give a JSONL file with one row per line.")
    return rows


def parse_preference(raw: RawRow, line: int) -> PreferenceRow | DataError:
    """A row, or the error in it."""
    try:
        return _parse(parse_row(raw, line), line)
    except DataError as error:
        return error


def is_preference_row(row: Any) -> bool:
    """Whether a row can only be used with ``--preferences``: it has a worse answer."""
    if not isinstance(row, Mapping):
        return False
    named = {"chosen", "rejected"} <= row.keys() or {"preferred_output", "non_preferred_output"} <= row.keys()
    return named or row.get("label") is False or ("messages" in row and any(n in row for n in _REJECTED))


def _parse(row: Any, line: int) -> PreferenceRow:
    where = f"Line {line}"
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is not an object. {_FORMS}.")
    form, chosen, rejected = _sides(row, where)
    sides = [_read(side, line, name) for side, name in ((chosen, "chosen"), (rejected, "rejected"))]
    _check_pair(*sides, where)
    return PreferenceRow(*sides, line, form)


def _sides(row: Mapping[str, Any], where: str) -> tuple[str, Row | None, Row | None]:
    """The form of the row, and its two chats, not checked yet."""
    if "preferred_output" in row or "non_preferred_output" in row:
        return "openai", *_openai_sides(row, where)
    if "chosen" in row or ("rejected" in row and "messages" not in row):
        return "pairs", *_pair_sides(row, where)
    chat = {name: value for name, value in row.items() if name != "label"}
    if form_of(chat) is None:
        raise DataError(f"{where}: {_FORMS}; this one has {', '.join(f'`{key}`' for key in list(row)[:12])}.")
    label = row.get("label", True)
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise DataError(
            f"{where}: `label` is {label!r}; it must be true for a better answer, false for a worse."
        )
    better = as_messages(chat, where)
    if not label:
        return "labels", None, better
    worse = next((row[name] for name in _REJECTED if row.get(name) is not None), None)
    if worse is None:
        return "labels" if "label" in row else "chats", better, None
    rejected = [*better.messages[:-1], *_answer(worse, f"{where}: `rejected`")]
    return "chats", better, Row("pairs", rejected, better.tools)


def _openai_sides(row: Mapping[str, Any], where: str) -> tuple[Row, Row]:
    given = row.get("input")
    if not isinstance(given, Mapping) or not isinstance(given.get("messages"), list):
        raise DataError(f"{where}: `input` must be an object with `messages`.")
    names = ("preferred_output", "non_preferred_output")
    sides = (
        {**given, "messages": [*given["messages"], *_answer(row.get(name), f"{where}: `{name}`")]}
        for name in names
    )
    better, worse = (as_messages(side, where) for side in sides)
    return better, worse


def _pair_sides(row: Mapping[str, Any], where: str) -> tuple[Row, Row]:
    prompt = next((row[name] for name in _PROMPTS if row.get(name) is not None), None)
    beside = {name: row[name] for name in ("system", "tools", "functions") if row.get(name)}
    found = []
    for name in ("chosen", "rejected"):
        answer = _answer(row.get(name), f"{where}: `{name}`")
        whole = any(isinstance(m, Mapping) and m.get("role") == "user" for m in answer)
        if not whole and prompt is None:
            raise DataError(
                f"{where}: `{name}` is an answer without a prompt. Give the prompt in `prompt`, or the whole chat as "
                f"a list of messages in `{name}`."
            )
        side = {"messages": answer, **beside} if whole else {"prompt": prompt, "completion": answer, **beside}
        found.append(as_messages(side, where))
    return found[0], found[1]


def _answer(value: Any, where: str) -> list[Any]:
    """An answer as messages: a text, a message, or a list of messages."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list) and value and all(isinstance(m, Mapping) for m in value):
        return value
    raise DataError(f"{where} must be text, a message or a list of messages.")


def _read(row: Row | None, line: int, name: str) -> Conversation | None:
    if row is None:
        return None
    chat = conversation_of(row, line)
    if chat.messages[-1]["role"] != "assistant":
        raise DataError(
            f"Line {line}: the {name} chat ends with a {chat.messages[-1]['role']} message, no answer."
        )
    return chat


def _check_pair(chosen: Conversation | None, rejected: Conversation | None, where: str) -> None:
    """Refuse answers to two different prompts, and equal answers."""
    if chosen is None or rejected is None:
        return
    if prompt_of(chosen) != prompt_of(rejected):
        raise DataError(
            f"{where}: chosen and rejected answer different prompts: the messages before the last one differ."
        )
    if answer_of(chosen) == answer_of(rejected):
        raise DataError(f"{where}: chosen and rejected are the same answer, so the row prefers nothing.")


def prompt_of(chat: Conversation) -> str:
    """What is answered, to compare: roles, texts and calls of the messages before the last one, and the tools."""
    return repr(([_plain(m) for m in chat.messages[:-1]], chat.tools))


def answer_of(chat: Conversation) -> str:
    """The last message, to compare."""
    return repr(_plain(chat.messages[-1]))


def _plain(message: Mapping[str, Any]) -> tuple[str, str, Sequence[Any]]:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return message["role"], message["content"].strip(), calls
