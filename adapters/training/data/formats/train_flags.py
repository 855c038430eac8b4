"""Flags that say whether an assistant turn is trained: ``weight``, ``loss``, ``train`` or ``training``."""

from __future__ import annotations

from collections.abc import Mapping
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
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(f"{where}: `{name}` is {value!r}; it must be 0 or 1, or false or true.")
    if len({bool(value) for value in given.values()}) > 1:
        said = " and ".join(f"`{name}` is {value!r}" for name, value in given.items())
        raise DataError(f"{where}: {said}, which contradict each other. Keep one of them.")
    return bool(next(iter(given.values()))) if given else None


def without_flags(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``message`` without the flags."""
    return {key: value for key, value in message.items() if key not in FLAGS}
