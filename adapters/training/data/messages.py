"""One message of a chat: its role, its text, its tool calls and whether it is trained, and the order of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.training.data.formats.row import decoded
from adapters.training.data.formats.train_flags import read_flag, without_flags
from adapters.training.data.tool_calls import split_calls
from adapters.training.errors import DataError

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_RENAMED = {"developer": "system", "function": "tool"}
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def read_message(raw: Any, where: str, notes: list[str]) -> dict[str, Any]:
    """The message in the form that chat templates take; ``weight`` is 0 where it is not trained.

    What was changed silently in the text or ignored is appended to ``notes``.

    Raises:
        DataError: a field is wrong.
    """
    if not isinstance(raw, dict) or raw.get("role") not in _ROLES:
        role = raw.get("role") if isinstance(raw, dict) else raw
        raise DataError(f"{where}: `role` is {_shown(role)}; it must be one of {', '.join(_ROLES)}.")
    trained = read_flag(raw, where)
    message = without_flags(raw)
    message["role"] = _RENAMED.get(raw["role"], raw["role"])
    message["content"] = _content(message, where)
    if (
        isinstance(raw.get("content"), dict | list)
        and message["role"] == "tool"
        and message["content"][:1] in "{["
    ):
        notes.append("the result of a tool is an object, which is read as its JSON")
    if message["role"] == "assistant":
        return _assistant(message, trained, where)
    if message.get("tool_calls") or message.get("function_call"):
        raise DataError(
            f"{where}: a {message['role']} message cannot have `tool_calls`; only the assistant calls."
        )
    if trained:
        notes.append(f"a flag says that a {message['role']} message is trained; only assistant turns are")
    return message


def check_order(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check that the roles follow each other as in a chat.

    Raises:
        DataError: they do not.
    """
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        raise DataError(f"{where}, messages[{roles.index('system', 1)}]: a system message must come first.")
    if "assistant" not in roles:
        raise DataError(f"{where}: there is no assistant turn to train on.")
    for at in range(1, len(roles)):
        if roles[at] == roles[at - 1] and roles[at] != "tool":
            raise DataError(f"{where}, messages[{at}]: two {roles[at]} messages in a row.")
        if roles[at] == "tool" and not (roles[at - 1] == "tool" or messages[at - 1].get("tool_calls")):
            raise DataError(f"{where}, messages[{at}]: a tool result must follow a tool call.")
    if roles[0] == "tool":
        raise DataError(f"{where}, messages[0]: a tool result must follow a tool call.")
    if "user" not in roles:
        raise DataError(f"{where}: there is no user message, so there is no prompt to answer.")


def _content(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if message["role"] == "tool" and isinstance(content, dict | list) and not _are_parts(content):
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        return "".join(_text_part(part, f"{where}, content[{i}]") for i, part in enumerate(content))
    raise DataError(
        f"{where}: `content` must be text, a list of text parts, or null; it is {_shown(content)}."
    )


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(p, dict) and p.get("type") in _TEXT_PARTS for p in content
    )


def _text_part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(_TEXT_PARTS[kind]) if isinstance(kind, str) and kind in _TEXT_PARTS else None
    if not isinstance(text, str):
        raise DataError(f"{where}: `type` is {_shown(kind)}; `content` may have only parts of type text.")
    return text


def _assistant(message: dict[str, Any], trained: bool | None, where: str) -> dict[str, Any]:
    refusal = message.pop("refusal", None)
    if isinstance(refusal, str) and not message["content"]:
        message["content"] = refusal
    if legacy := message.pop("function_call", None):
        message["tool_calls"] = [*(message.get("tool_calls") or ()), {"type": "function", "function": legacy}]
    if "<tool_call>" in message["content"]:
        message = _with_calls(message, where)
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise DataError(f"{where}: `tool_calls` must be a list; it is {_shown(calls)}.")
    if calls:
        message["tool_calls"] = [_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)]
    elif "tool_calls" in message:
        del message["tool_calls"]
    if not (message["content"].strip() or calls):
        raise DataError(f"{where}: an assistant turn needs `content` or `tool_calls`; this one is empty.")
    return message if trained is None else message | {"weight": int(trained)}


def _with_calls(message: dict[str, Any], where: str) -> dict[str, Any]:
    """Calls that are written as text become ``tool_calls``, so that the template renders them as in serving."""
    try:
        text, calls = split_calls(message["content"])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}.") from error
    return message | {"content": text, "tool_calls": [*(message.get("tool_calls") or ()), *calls]}


def _call(raw: Any, where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object.

    NOTE: most templates encode arguments that are a JSON string a second time, silently (oumi#2599). The server
    gives its template objects too.
    """
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: `function.name` must be text.")
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    arguments = decoded(arguments, f"{where}: `function.arguments`")
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: `function.arguments` must be an object; it is {_shown(arguments)}.")
    return {**raw, "function": {**function, "arguments": arguments}}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
