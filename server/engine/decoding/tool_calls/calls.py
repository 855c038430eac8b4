"""What is a tool call: the JSON that a model writes for one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic_core import from_json


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call."""

    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a piece of an answer adds to it: text, then calls, then the text that followed the answer's first call."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)
    after: str = ""
    """Only in the last piece."""


def read_call(text: str) -> Call | None:
    """The call that a JSON object describes; None if it describes none.

    Args:
        text: {"name": a string, "arguments" or "parameters": an object}; a call without arguments may leave it out.
    """
    value = _loads(text)
    if not isinstance(value, dict):
        return None
    name, given = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if isinstance(given, str):  # some models quote the object
        given = _loads(given)
    return _call(name, given)


def read_arguments(name: str, text: str) -> Call | None:
    """The call of the function `name` whose arguments are `text`; None if that is no JSON object."""
    return _call(name, _loads(text))


def may_become_object(text: str) -> bool:
    """Whether `text` is the beginning of a JSON object, or only white space."""
    try:
        return not text.strip() or isinstance(from_json(text, allow_partial=True), dict)
    except ValueError:
        return False


def _call(name: Any, arguments: Any) -> Call | None:
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return None
    return Call(_encodable(name), _encodable(text))


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON.")


def _encodable(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
