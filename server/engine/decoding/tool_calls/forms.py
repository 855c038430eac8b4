"""How models write calls: the tags around a call, and what stands between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from server.engine.decoding.tool_calls.calls import Call, may_become_object, read_call
from server.engine.decoding.tool_calls.json_object import JsonObject, State

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"


class Body(Protocol):
    """What stands between the tags, as far as it was read."""

    @property
    def state(self) -> State:
        """How far it has been read."""

    @property
    def text(self) -> str:
        """All that was taken so far."""

    def feed(self, text: str) -> str:
        """Take what belongs to the body; returns the rest, which is empty while the body is open."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a model writes a call."""

    body: Callable[[], Body]
    """A new body, for each tag that opens a call."""
    read: Callable[[str], Call | None]
    """The call in a complete body; None if it is none."""
    may_become_call: Callable[[str], bool]
    """Whether the text of an open body is half a call."""
    tags: tuple[str, ...] = (OPEN, CLOSE)
    """All tags but `CLOSE` open a call. Each has one "<", at its beginning."""
    tag: re.Pattern[str] = re.compile(f"{OPEN}|{CLOSE}")
    """Matches the tags; a tag that is part of the body is matched without its text."""


#: JSON between tags, as the templates of Hermes and Qwen2.5 show the model.
HERMES: Final = Form(body=JsonObject, read=read_call, may_become_call=may_become_object)
