"""Converts the three supported formats to one: a row with OpenAI ``messages`` and ``tools``.

- OpenAI: ``{"messages": [{"role", "content", "tool_calls"}], "tools": [...]}``
- pairs: ``{"prompt", "completion"}``, each text or a list of messages
- ShareGPT: ``{"conversations": [{"from", "value"}], "system", "tools"}``, calls as ``function_call`` turns
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapters.training.errors import DataError

_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def form_of(row: Any) -> str | None:
    """``messages``, ``pairs`` or ``sharegpt``; None for any other format."""
    if not isinstance(row, dict):
        return None
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    return "pairs" if {"prompt", "completion"} <= row.keys() else None


def as_messages(row: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The row's format, and the row with ``messages`` and ``tools``.

    Raises:
        DataError: it has none of the three formats.
    """
    form = form_of(row)
    if form is None:
        raise DataError(
            f"{where}: `messages` must be a list with at least one message "
            "(or give `prompt` and `completion`, or ShareGPT `conversations`)."
        )
    if form == "sharegpt":
        row = _from_sharegpt(row, where)
    elif form == "pairs":
        row = _from_pair(row, where)
    if not isinstance(row["messages"], list) or not row["messages"]:
        raise DataError(f"{where}: `messages` must be a list with at least one message.")
    return form, {"messages": row["messages"], "tools": _tools(row.get("tools"), where)}


def _from_pair(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    prompt = _side(row["prompt"], "user", f"{where}: `prompt`")
    completion = _side(row["completion"], "assistant", f"{where}: `completion`")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {"messages": [*system, *prompt, *completion], "tools": row.get("tools")}


def _side(value: Any, role: str, where: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value:
        return value
    raise DataError(f"{where} must be text or a list of messages.")


def _from_sharegpt(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(row["conversations"], list) or not row["conversations"]:
        raise DataError(f"{where}: `conversations` must be a list with at least one turn.")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    turns = [_turn(t, f"{where}, conversations[{i}]") for i, t in enumerate(row["conversations"])]
    return {"messages": [*system, *turns], "tools": row.get("tools")}


def _turn(turn: Any, where: str) -> dict[str, Any]:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if speaker not in _SPEAKERS:
        raise DataError(f"{where}: `from` is {speaker!r}; it must be one of {', '.join(_SPEAKERS)}.")
    value = turn.get("value")
    if speaker != "function_call":
        return {"role": _SPEAKERS[speaker], "content": value}
    calls = _decoded(value, f"{where}: `value` of a function_call")
    calls = calls if isinstance(calls, list) else [calls]
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": c} for c in calls],
    }


def _tools(raw: Any, where: str) -> list[dict[str, Any]]:
    """Tools in OpenAI's format, from a list or its JSON; a bare function is wrapped."""
    tools = _decoded(raw, f"{where}: `tools`") if isinstance(raw, str) and raw.strip() else raw or []
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise DataError(f"{where}: `tools` must be a list of objects.")
    return [t if "function" in t else {"type": "function", "function": t} for t in tools]


def _decoded(raw: Any, what: str) -> Any:
    try:
        return json.loads(raw) if isinstance(raw, str) else raw
    except json.JSONDecodeError as error:
        raise DataError(f"{what} is not JSON: {error.msg}.") from error
