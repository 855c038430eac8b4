"""Response headers that describe how the request was understood."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import Message

from adapters.lifecycle.blends.blending import ScaledVersion

#: Longer values, such as a JSON schema, are cut off.
MAX_SHOWN_CHARS = 200
MAX_IGNORED_NAMES = 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def ignored_header(names: Sequence[str]) -> str:
    """The names of ignored fields that are safe in a header, and the number of the others."""
    shown = [name for name in names if _SAFE_NAME.fullmatch(name)][:MAX_IGNORED_NAMES]
    hidden = len(names) - len(shown)
    return ", ".join([*shown, f"{hidden} more"] if hidden else shown)


def debug_header(effective: Mapping[str, Mapping[str, Any]], blend: Sequence[ScaledVersion] = ()) -> str:
    """The options of a request and the origin of each, as JSON; a long value is cut off and becomes text.

    `adapters` has the versions that a blend was made of, for a request that names several.
    """
    shown: dict[str, Any] = {}
    for name, option in effective.items():
        text = json.dumps(option["value"], separators=(",", ":"))
        is_long = len(text) > MAX_SHOWN_CHARS
        shown[name] = {
            "value": f"{text[:MAX_SHOWN_CHARS]}…" if is_long else option["value"],
            "from": option["from"],
        }
    if blend:
        versions = [
            {"name": f"{part.version.public_name}@{part.version.number}", "scale": part.scale}
            for part in blend
        ]
        shown["adapters"] = {"value": versions, "from": "request"}
    return json.dumps(shown, separators=(",", ":"))


def stream_head(headers: Mapping[str, str]) -> Message:
    """The head of a stream."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": list(_SSE_HEADERS)}
    MutableHeaders(scope=start).update(headers)
    return start
