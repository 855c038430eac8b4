"""Settings that are JSON objects: text as a flag or variable, a table in a config file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def decode_objects(values: Any, names: Sequence[str]) -> Any:
    """The values with those of `names` that are text decoded.

    Raises:
        ValueError: a text is not a JSON object; the message names the flag.
    """
    given: Mapping[str, Any] = values if isinstance(values, dict) else {}
    texts = {name: given[name] for name in names if isinstance(given.get(name), str)}
    return {**given, **{name: _decode(name, text) for name, text in texts.items()}} if texts else values


def _decode(name: str, text: str) -> dict[str, Any]:
    flag = f"--{name.replace('_', '-')}"
    try:
        decoded = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{flag} is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise ValueError(f"{flag} must be a JSON object, not {type(decoded).__name__}")
    return decoded
