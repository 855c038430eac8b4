"""Finds the end of one JSON object in a text that arrives in pieces."""

from __future__ import annotations

import enum
import re

#: Deeper objects are no calls: what reads them later (pydantic, clients) stops at a few hundred levels.
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\n\r]*")
#: The next character outside of strings that is not white space and not part of a number, true, false or null.
_OUTSIDE = re.compile(r"[^ \t\n\r0-9,:.+\-Etruefalsn]")
#: The next character of a string that ends it, escapes another, or must not stand in it.
_INSIDE = re.compile(r'["\\\x00-\x1f]')


class State(enum.Enum):
    """How far the object has been read."""

    OPEN = enum.auto()
    CLOSED = enum.auto()
    BROKEN = enum.auto()
    """The text is no JSON object, whatever follows."""


class JsonObject:
    """One JSON object, from its brace to the closing one.

    It looks at strings and brackets only; `json.loads` has the last word on what is between them. Each character is
    looked at once, so many short pieces cost as much as one long one.
    """

    def __init__(self) -> None:
        self.state = State.OPEN
        self._pieces: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def text(self) -> str:
        """All that was taken so far."""
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """Take what belongs to the object; returns the rest of `text`, which is empty while the object is open."""
        at = 0 if self._depth else self._begin(text)
        while self.state is State.OPEN and at < len(text):
            at = self._inside(text, at) if self._in_string else self._outside(text, at)
        self._pieces.append(text[:at])
        return text[at:]

    def _begin(self, text: str) -> int:
        space = _SPACE.match(text)
        at = space.end() if space else 0
        if at == len(text):
            return at
        if text[at] != "{":
            self.state = State.BROKEN
            return at
        self._depth = 1
        return at + 1

    def _inside(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _INSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = False
        elif found[0] == "\\":
            self._escaped = True
        else:
            self.state = State.BROKEN
            return found.start()
        return found.end()

    def _outside(self, text: str, at: int) -> int:
        found = _OUTSIDE.search(text, at)
        if found is None:
            return len(text)
        character = found[0]
        if character == '"':
            self._in_string = True
        elif character in "{[" and self._depth < MAX_DEPTH:
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if not self._depth:
                self.state = State.CLOSED
        else:
            self.state = State.BROKEN
            return found.start()
        return found.end()
