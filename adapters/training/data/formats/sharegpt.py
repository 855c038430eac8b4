"""ShareGPT rows: ``{"conversations": [{"from", "value"}], "system", "tools"}``, calls as ``function_call`` turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.training.data.formats.declarations import read_tools
from adapters.training.data.formats.row import Row, decoded, system_turn
from adapters.training.data.formats.train_flags import row_flags
from adapters.training.errors import DataError

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLS = ("function_call", "tool_call")


def from_sharegpt(row: Mapping[str, Any], where: str) -> Row:
    """The row in OpenAI's form; turns with ``role`` and ``content`` are taken as they are.

    Raises:
        DataError: a turn has no known speaker, or a call is not JSON.
    """
    turns = [_turn(t, place) for place, t in turns_of(row, where)]
    return Row("sharegpt", [*system_turn(row, where), *turns], read_tools(row.get("tools"), where))


def turns_of(row: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """The turns of the row, each with its place.

    Raises:
        DataError: there are none.
    """
    name = "conversations" if row.get("conversations") is not None else "conversation"
    if not isinstance(row[name], list) or not row[name]:
        raise DataError(f"{where}: `{name}` must be a list with at least one turn.")
    return [(f"{where}, {name}[{i}]", turn) for i, turn in enumerate(row[name])]


def _turn(turn: Any, where: str) -> dict[str, Any]:
    if isinstance(turn, dict) and "role" in turn and "from" not in turn:
        return turn
    role = speaker_role(turn, where)
    flags = row_flags(turn)
    if "value" not in turn:
        raise DataError(f"{where}: `value` is missing.")
    value = turn["value"]
    if turn["from"] not in _CALLS:
        return {"role": role, "content": value, **flags}
    calls = decoded(value, f"{where}: `value` of a {turn['from']}")
    calls = calls if isinstance(calls, list) else [calls]
    called = [{"type": "function", "function": call} for call in calls]
    return {"role": "assistant", "content": None, "tool_calls": called, **flags}


def speaker_role(turn: Any, where: str) -> str:
    """The role of a turn's speaker.

    Raises:
        DataError: `from` is missing or unknown.
    """
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise DataError(f"{where}: `from` is {speaker!r}; it must be one of {', '.join(SPEAKERS)}.")
    return SPEAKERS[speaker]
