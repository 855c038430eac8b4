"""Converts the rows that people have to one form: OpenAI ``messages`` and ``tools``.

- ``messages``: ``{"messages": [{"role", "content", "tool_calls"}], "tools": [...]}``, also legacy ``functions``
- ``pairs``: a question and an answer, such as ``{"prompt", "completion"}`` (``pairs.py`` has all names)
- ``alpaca``: ``{"instruction", "input", "output"}``, ``system`` and ``history`` beside them
- ``sharegpt``: ``{"conversations": [{"from", "value"}], "system", "tools"}``
- ``toolace``: the same, with the functions in the system text and calls such as ``[f(city="Quito")]``
- ``xlam``: ``{"query", "tools", "answers"}``

Any other row is refused by ``refusals.py``, which names its keys and a command that converts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adapters.training.data.formats.declarations import read_tools
from adapters.training.data.formats.function_calling import from_toolace, from_xlam, is_toolace
from adapters.training.data.formats.pairs import from_alpaca, from_pair, pair_keys
from adapters.training.data.formats.refusals import refuse_dislike, refuse_row
from adapters.training.data.formats.row import Row
from adapters.training.data.formats.sharegpt import from_sharegpt
from adapters.training.data.formats.train_flags import apply_row_flags
from adapters.training.errors import DataError

__all__ = ["Row", "as_messages", "form_of"]


def form_of(row: Any) -> str | None:
    """The name of the row's form; None for an unknown one."""
    if not isinstance(row, dict):
        return None
    # Tables pad the columns that a row does not have with null.
    keys = {key for key, value in row.items() if value is not None}
    if "messages" in keys or (not keys and "messages" in row):
        return "messages"
    if "conversations" in keys or "conversation" in keys:
        return "toolace" if is_toolace(row) else "sharegpt"
    if {"query", "answers", "tools"} <= keys:
        return "xlam"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    return "pairs" if pair_keys(keys) else None


def as_messages(row: Any, where: str) -> Row:
    """The row in OpenAI's form.

    Raises:
        DataError: it has none of the forms, or a field of its form is wrong.
    """
    form = form_of(row)
    if form is None:
        raise refuse_row(row, where)
    refuse_dislike(row, where)
    found = _READERS[form](row, where)
    if not isinstance(found.messages, list) or not found.messages:
        raise DataError(f"{where}: `messages` must be a list with at least one message.")
    if form not in _CHATS:
        return found
    messages, notes = apply_row_flags(found.messages, row, where)
    return replace(found, messages=messages, notes=(*found.notes, *notes))


def _from_messages(row: Mapping[str, Any], where: str) -> Row:
    tools = row.get("tools")
    if not tools and row.get("functions"):
        tools = row["functions"]
    return Row("messages", row["messages"], read_tools(tools, where))


#: The forms of whole chats; in the others a row is one answer, which has the row's flags.
_CHATS = ("messages", "sharegpt", "toolace")
_READERS: dict[str, Callable[[Mapping[str, Any], str], Row]] = {
    "messages": _from_messages,
    "pairs": from_pair,
    "alpaca": from_alpaca,
    "sharegpt": from_sharegpt,
    "toolace": from_toolace,
    "xlam": from_xlam,
}
