"""Rows with one question and one answer, under the names that data sets use, and Alpaca's."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from adapters.training.data.formats.declarations import read_tools
from adapters.training.data.formats.row import Row, system_turn
from adapters.training.data.formats.train_flags import row_flags
from adapters.training.errors import DataError

_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("input", "output"),
    ("instruction", "response"),
)


def pair_keys(present: Set[str]) -> tuple[str, str] | None:
    """The names of a row's question and answer among its keys; None if it is no such row."""
    return next((keys for keys in _PAIRS if set(keys) <= present), None)


def from_pair(row: Mapping[str, Any], where: str) -> Row:
    """The row in OpenAI's form; each side is text or a list of messages.

    Raises:
        DataError: a side is neither.
    """
    keys = pair_keys({key for key, value in row.items() if value is not None})
    if keys is None:
        raise ValueError("The row has no question and answer.")
    question = _side(row[keys[0]], "user", f"{where}: `{keys[0]}`")
    answer = _side(row[keys[1]], "assistant", f"{where}: `{keys[1]}`")
    answer[-1] = answer[-1] | row_flags(row)
    messages = [*system_turn(row, where), *question, *answer]
    return Row("pairs", messages, read_tools(row.get("tools"), where))


def from_alpaca(row: Mapping[str, Any], where: str) -> Row:
    """The row in OpenAI's form: ``input`` is appended to ``instruction``; ``history`` has earlier pairs.

    Raises:
        DataError: a field is not text, or the history is not a list of pairs.
    """
    for name in ("instruction", "input", "output"):
        if not isinstance(row.get(name) or "", str):
            raise DataError(f"{where}: `{name}` must be text.")
    history = row.get("history") or []
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        raise DataError(f"{where}: `history` must be a list of pairs of texts.")
    earlier = [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    question = "\n\n".join(text for text in (row["instruction"], row.get("input")) if text)
    if not question:
        raise DataError(f"{where}: `instruction` is empty.")
    answer = {"role": "assistant", "content": row["output"], **row_flags(row)}
    turns = [{"role": "user", "content": question}, answer]
    messages = [*system_turn(row, where), *earlier, *turns]
    return Row("alpaca", messages, read_tools(row.get("tools"), where))


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _side(value: Any, role: str, where: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return list(value)
    raise DataError(f"{where} must be text or a list of messages.")
