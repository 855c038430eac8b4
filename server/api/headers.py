"""What a response's own headers tell about its request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: A header is no place for a schema.
MAX_SHOWN_CHARS = 200
MAX_IGNORED_NAMES = 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def ignored_header(names: Sequence[str]) -> str:
    """The names of fields that nobody reads, as far as they are harmless in a header; the rest is counted."""
    shown = [name for name in names if _SAFE_NAME.fullmatch(name)][:MAX_IGNORED_NAMES]
    hidden = len(names) - len(shown)
    return ", ".join([*shown, f"{hidden} more"] if hidden else shown)


def debug_header(effective: Mapping[str, Mapping[str, Any]]) -> str:
    """What holds for a request and where each value is from, as JSON; what is long is cut to a text."""
    shown = {}
    for name, held in effective.items():
        text = json.dumps(held["value"], separators=(",", ":"))
        is_long = len(text) > MAX_SHOWN_CHARS
        shown[name] = {
            "value": f"{text[:MAX_SHOWN_CHARS]}…" if is_long else held["value"],
            "from": held["from"],
        }
    return json.dumps(shown, separators=(",", ":"))
