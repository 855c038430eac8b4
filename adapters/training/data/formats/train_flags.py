"""Flags that say whether an assistant turn is trained: ``weight``, ``loss``, ``train`` or ``training``.

They stand in the turn, or in the row: of its answer, or of all its turns that have none of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.training.errors import DataError

# OpenAI's, ms-swift's, and Axolotl's two names of it.
FLAGS = ("weight", "loss", "train", "training")


def read_flag(message: Mapping[str, Any], where: str) -> bool | None:
    """Whether ``message`` is to be trained; None if it does not say.

    Raises:
        DataError: a flag is not 0, 1, true or false, or two flags contradict each other.
    """
    given = {name: message[name] for name in FLAGS if message.get(name) is not None}
    for name, value in given.items():
        if not _is_flag(value):
            raise DataError(f"{where}: `{name}` is {value!r}; it must be 0 or 1, or false or true.")
    if len({bool(value) for value in given.values()}) > 1:
        said = " and ".join(f"`{name}` is {value!r}" for name, value in given.items())
        raise DataError(f"{where}: {said}, which contradict each other. Keep one of them.")
    return bool(next(iter(given.values()))) if given else None


def row_flags(row: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a row."""
    return {name: row[name] for name in FLAGS if row.get(name) is not None}


def apply_row_flags(
    messages: Sequence[Any], row: Mapping[str, Any], where: str
) -> tuple[list[Any], tuple[str, ...]]:
    """``messages`` with the flags of the row in the assistant turns that have none, and notes about odd values.

    NOTE: beside a whole chat, ``loss`` or ``weight`` can be a figure of it, so other values are no error.

    Raises:
        DataError: two flags contradict each other.
    """
    given = row_flags(row)
    odd = {name: value for name, value in given.items() if not _is_flag(value)}
    notes = tuple(
        f"`{name}` beside the messages is {value!r} and not read; only 0, 1, false and true say what is trained"
        for name, value in odd.items()
    )
    trained = read_flag({name: value for name, value in given.items() if name not in odd}, where)
    if trained is not False:
        return list(messages), notes
    off = {"weight": 0}
    return [m | off if _is_unflagged_answer(m) else m for m in messages], notes


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def _is_unflagged_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and not row_flags(message)


def without_flags(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``message`` without the flags."""
    return {key: value for key, value in message.items() if key not in FLAGS}
