"""Reads chats from JSONL; every error names the line and the field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.training.data.chat_template import Conversation
from adapters.training.data.formats import as_messages
from adapters.training.data.tool_calls import split_calls
from adapters.training.errors import DataError

_ROLES = ("system", "user", "assistant", "tool")


def read_conversations(path: Path) -> list[Conversation]:
    """All chats of a JSONL file; empty lines are skipped.

    Raises:
        DataError: the file is missing or empty, or a line cannot be trained on.
    """
    found = []
    for chat in read_lines(path):
        if isinstance(chat, DataError):
            raise chat
        found.append(chat)
    return found


def read_lines(path: Path) -> list[Conversation | DataError]:
    """Every line as a chat, or as the error in it.

    Raises:
        DataError: the file is missing or empty, or is not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"{path.name} is not a file. Give a JSONL file with one chat per line.")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            found = [
                _parse_or_error(line, number) for number, line in enumerate(lines, start=1) if line.strip()
            ]
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text. Save it as UTF-8.") from error
    if not found:
        raise DataError(f"{path.name} has no chats. Give a JSONL file with one chat per line.")
    return found


def split_held_out(
    conversations: Sequence[Conversation], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out chats, split by a hash of the first question; case and spaces do not count.

    Chats with the same first question are on the same side, so no held-out question is trained on.
    """
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    for conversation in conversations:
        (held_out if _share_of(conversation) < share else train).append(conversation)
    return train, held_out


def first_question(conversation: Conversation) -> str:
    """The first message of the user, in lower case and with single spaces."""
    question = next((m["content"] for m in conversation.messages if m["role"] == "user"), "") or ""
    return normalised(str(question))


def normalised(text: str) -> str:
    """``text`` in lower case and with single spaces."""
    return " ".join(text.lower().split())


def _share_of(conversation: Conversation) -> float:
    digest = hashlib.sha256(first_question(conversation).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _parse_or_error(line: str, number: int) -> Conversation | DataError:
    try:
        return _parse(line, number)
    except DataError as error:
        return error


def _parse(line: str, number: int) -> Conversation:
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"Line {number} is not JSON: {error.msg} at column {error.colno}.") from error
    form, row = as_messages(raw, f"Line {number}")
    messages = tuple(_message(m, f"Line {number}, messages[{i}]") for i, m in enumerate(row["messages"]))
    _check_order(messages, number)
    return Conversation(messages, tuple(row["tools"]), number, form)


def _message(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("role") not in _ROLES:
        role = raw.get("role") if isinstance(raw, dict) else raw
        raise DataError(f"{where}: `role` is {role!r}; it must be one of {', '.join(_ROLES)}.")
    message = dict(raw)
    content = message.get("content")
    if content is None:
        message["content"] = ""
    elif isinstance(content, list):
        message["content"] = "".join(_text_part(p, where) for p in content)
    elif not isinstance(content, str):
        raise DataError(f"{where}: `content` must be text, a list of text parts, or null.")
    if message["role"] == "assistant" and "<tool_call>" in message["content"]:
        message = _with_calls(message, where)
    if message.get("tool_calls"):
        message["tool_calls"] = [
            _call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(message["tool_calls"])
        ]
    if message["role"] == "assistant" and not (message["content"].strip() or message.get("tool_calls")):
        raise DataError(f"{where}: an assistant turn needs `content` or `tool_calls`; this one is empty.")
    return message


def _with_calls(message: dict[str, Any], where: str) -> dict[str, Any]:
    """Calls that are written as text become ``tool_calls``, so that the template renders them as in serving."""
    try:
        text, calls = split_calls(message["content"])
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error
    return message | {"content": text, "tool_calls": [*message.get("tool_calls", ()), *calls]}


def _text_part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise DataError(f"{where}: `content` may have only parts of type text.")
    return str(part["text"])


def _call(raw: Any, where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object.

    NOTE: most templates encode arguments that are a JSON string a second time, silently (oumi#2599). The server
    gives its template objects too.
    """
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: `function.name` must be text.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: `function.arguments` is not JSON: {error.msg}.") from error
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: `function.arguments` must be an object.")
    return {**raw, "function": {**function, "arguments": arguments}}


def _check_order(messages: Sequence[Mapping[str, Any]], number: int) -> None:
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        raise DataError(f"Line {number}: a system message must come first.")
    if "assistant" not in roles:
        raise DataError(f"Line {number}: there is no assistant turn to train on.")
    for at in range(1, len(roles)):
        if roles[at] == roles[at - 1] and roles[at] != "tool":
            raise DataError(f"Line {number}, messages[{at}]: two {roles[at]} messages in a row.")
        if roles[at] == "tool" and not (roles[at - 1] == "tool" or messages[at - 1].get("tool_calls")):
            raise DataError(f"Line {number}, messages[{at}]: a tool result must follow a tool call.")
