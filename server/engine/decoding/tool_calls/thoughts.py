"""Separates what a model thinks from what it answers, in a text that arrives in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

#: Characters that are looked at together: what follows a tag is copied, so a long text with many tags is not.
_STRETCH: Final = 2048


def stretches(text: str) -> Iterator[str]:
    """The text in parts, each so short that it may be copied for each of its tags."""
    for at in range(0, len(text), _STRETCH):
        yield text[at : at + _STRETCH]


def tag_beginning(text: str, tags: Sequence[str]) -> int:
    """Length of the end of `text` that may be the beginning of a tag; a tag has one "<", at its beginning."""
    at = text.rfind("<", -max(map(len, tags)))
    end = text[at:] if at >= 0 else ""
    return len(end) if end and any(tag.startswith(end) and tag != end for tag in tags) else 0


class ThoughtScanner:
    """Thoughts come first and end with a tag."""

    def __init__(self, start: str, end: str, also_ends: Sequence[str] = ()) -> None:
        """
        Args:
            start: the tag before the thoughts, which is dropped; the prompt may have it already.
            end: the tag that ends them.
            also_ends: what ends them and is part of the answer.
        """
        self._start, self._end = start, end
        self._tags = (start, end, *also_ends)
        self._tag = re.compile("|".join(map(re.escape, self._tags)))
        self._held = ""
        self.ended = False

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the answer in the next piece."""
        thoughts, answer = [], []
        for stretch in stretches(text):
            if self.ended:
                answer.append(stretch)
            else:
                thought, rest = self._in_thoughts(stretch)
                thoughts.append(thought)
                answer.append(rest)
        return "".join(thoughts), "".join(answer)

    def _in_thoughts(self, text: str) -> tuple[str, str]:
        text, self._held = self._held + text, ""
        thoughts = []
        while tag := self._tag.search(text):
            thoughts.append(text[: tag.start()])
            self.ended = tag[0] != self._start
            text = text[tag.start() if self.ended and tag[0] != self._end else tag.end() :]
            if self.ended:
                return "".join(thoughts), text
        length = tag_beginning(text, self._tags)
        self._held = text[len(text) - length :]
        return "".join([*thoughts, text[: len(text) - length]]), ""

    def finish(self) -> str:
        """The rest of the thoughts, when no piece follows."""
        return self._held
