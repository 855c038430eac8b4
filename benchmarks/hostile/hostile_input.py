"""One request that costs a server much more than it costs its sender, and how short ones are built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import demo

MODEL: Final = demo.SERVED_NAME


@dataclass(frozen=True, slots=True)
class HostileInput:
    """One request that is sent again and again.

    Args:
        name: in figures.
        build: makes the body; called in the process that sends it.
        path: where it is sent.
        copies: how many connections send it at once.
        content_type: of the body.
        pause_s: time between two parts of a body that is sent in parts of one byte; 0 sends it at once.
        is_read: whether the sender reads the answer; a slow reader does not.
    """

    name: str
    build: Callable[[], bytes]
    path: str = "/v1/chat/completions"
    copies: int = 2
    content_type: str = "application/json"
    pause_s: float = 0.0
    is_read: bool = True


def chat(**fields: Any) -> bytes:
    """A short chat with these fields."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16} | fields
    return json.dumps(body).encode()


def completion(**fields: Any) -> bytes:
    """A short completion with these fields, a prompt among them."""
    return json.dumps({"model": MODEL, "max_tokens": 4} | fields).encode()


def tool(number: int, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """A tool of a chat."""
    function = {"name": f"tool_{number}", "parameters": parameters or {"type": "object", "properties": {}}}
    return {"type": "function", "function": function}
