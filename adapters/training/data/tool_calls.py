"""Function calls as text: ``<tool_call>\\n{json}\\n</tool_call>``.

Qwen2.5's template writes them in this form, and vLLM's ``hermes`` parser reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_TAGS = ("<tool_call>", "</tool_call>")


def parse_calls(text: str) -> list[dict[str, Any]] | None:
    """The calls in an answer, read as by a hermes parser; None if one is malformed."""
    try:
        calls = [json.loads(body) for body in _CALL.findall(text)]
    except json.JSONDecodeError:
        return None
    well_formed = all(isinstance(c, dict) and set(c) == {"name", "arguments"} for c in calls)
    return calls if well_formed else None


def expected_calls(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message in the form of ``parse_calls``."""
    functions = [call["function"] for call in answer.get("tool_calls") or ()]
    return [{"name": f["name"], "arguments": f["arguments"]} for f in functions]


def split_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text around calls that are written as text, and the calls in OpenAI's format.

    Raises:
        ValueError: a tag is not closed, or a call is not an object with ``name`` and ``arguments``.
    """
    rest = _CALL.sub("", text)
    calls = parse_calls(text)
    if calls is None or any(tag in rest for tag in _TAGS):
        raise ValueError("a <tool_call> must hold one JSON object with `name` and `arguments`, and be closed")
    return rest.strip(), [{"type": "function", "function": call} for call in calls]


def looks_like_bare_call(text: str, names: set[str]) -> bool:
    """Whether an answer is the JSON of a call to one of ``names`` without its tags."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return False
    rows = found if isinstance(found, list) else [found]
    return bool(rows) and all(isinstance(r, dict) and r.get("name") in names for r in rows)
