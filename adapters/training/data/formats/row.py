"""A row of a data file in OpenAI's form, and the reading of fields that may be JSON in a string."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from adapters.training.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """Messages and tools of one row, not checked yet. ``notes`` are sentences about what was changed."""

    form: str
    messages: Any
    tools: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


class NotFinite(ValueError):
    """A number such as NaN, which Python writes and JSON does not know."""


def parse_row_json(text: str | bytes) -> Any:
    """The value of strict JSON.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=refuse_constant)


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, as ``parse_constant`` of a JSON decoder."""
    raise NotFinite(f"it has {name}, which JSON does not know")


def decoded(raw: Any, what: str) -> Any:
    """``raw``, or what it says if it is JSON in a string.

    Raises:
        DataError: the string is not JSON; ``what`` names the field.
    """
    try:
        return parse_row_json(raw) if isinstance(raw, str) else raw
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not JSON: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """Why JSON cannot be read, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, NotFinite) else "it has a number that is too long"


def system_turn(row: Any, where: str) -> list[dict[str, Any]]:
    """The system message from the row's ``system``; none if it is missing or empty.

    Raises:
        DataError: it is not text.
    """
    system = row.get("system")
    if not system:
        return []
    if not isinstance(system, str):
        raise DataError(f"{where}: `system` must be text.")
    return [{"role": "system", "content": system}]
