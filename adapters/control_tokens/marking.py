"""Finds control tokens in the arguments of a chat template and puts marks into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

#: Unicode's noncharacters: no text that is meant for interchange contains them.
_MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
#: Fields of an assistant message that the model wrote as they are.
_ANSWER_FIELDS = frozenset({"content", "reasoning", "reasoning_content"})


class UnmarkableText(ValueError):
    """Control tokens in a text cannot be encoded as text."""


class MarkedText(str):
    """A rendered conversation with marks in the control tokens that its template did not write."""

    mark: str

    def __new__(cls, text: str, mark: str) -> MarkedText:
        """`text`, in which `mark` is the mark."""
        marked = super().__new__(cls, text)
        marked.mark = mark
        return marked

    def __getitem__(self, key: SupportsIndex | slice) -> MarkedText:
        """A part of it, with the same mark."""
        return MarkedText(super().__getitem__(key), self.mark)

    @property
    def unmarked(self) -> str:
        """The text without marks."""
        return self.replace(self.mark, "")


class Marked(NamedTuple):
    """What a chat template gets, and the mark in its strings."""

    messages: list[Any]
    variables: dict[str, Any]
    mark: str


class _Finder:
    """Finds some control tokens in strings."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = sorted(tokens, key=len, reverse=True)
        self._starts = frozenset(token[:end] for token in self.tokens for end in range(1, len(token)))
        self._firsts = "".join(sorted({token[0] for token in self.tokens}))
        self._token = re.compile(_any_of(self.tokens))
        # Every start of a token, also inside another token.
        self._start = re.compile(f"(?=(?:{_any_of(self.tokens)}))(.)", re.DOTALL)
        self._longest = max(map(len, self.tokens), default=0)

    def occurs(self, text: str) -> bool:
        """Whether one of the tokens is in `text`."""
        return self._token.search(text) is not None

    def unfinished(self, text: str) -> str:
        """The longest beginning of a token at the end of `text`, without white space after it; it may be empty."""
        end = text.rstrip()[-self._longest :]
        if not self.may_start(end):
            return ""
        return next((end[at:] for at in range(len(end)) if end[at:] in self._starts), "")

    def mark(self, text: str, mark: str) -> str:
        """`text` with the mark after the first character of every token, and after an unfinished one at its end."""
        if not self.may_start(text):
            return text
        if self.unfinished(text):
            written = text.rstrip()
            text = written + mark + text[len(written) :]
        return self._start.sub(rf"\1{mark}", text) if self.occurs(text) else text

    def may_start(self, text: str) -> bool:
        """Whether `text` has the first character of a token; nearly free, and all that most strings need."""
        for first in self._firsts:  # noqa: SIM110  any() costs several times as much
            if first in text:
                return True
        return False


class Marker:
    """Marks the control tokens of one tokenizer."""

    def __init__(self, tokens: Mapping[str, bool]) -> None:
        """`tokens`: the control tokens, and which are special."""
        self._any = _Finder(tokens)
        self._special = _Finder(token for token, special in tokens.items() if special)

    def mark(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> Marked | None:
        """`ControlTokens.mark`."""
        if not self._any.tokens:
            return None
        found = [
            (finder, text) for finder, value in self._values(messages, variables) for text in _strings(value)
        ]
        suspects = [(finder, text) for finder, text in found if finder.may_start(text)]
        if not any(finder.occurs(text) for finder, text in suspects) and not self._in_parts(suspects, found):
            return None
        mark = next((mark for mark in _MARKS if not any(mark in text for _, text in found)), None)
        if mark is None:
            raise UnmarkableText(
                "The text has control tokens of the model and all noncharacters U+FDD0 to U+FDEF. Remove these."
            )
        try:
            return Marked(
                [self._marked_message(message, mark) for message in messages],
                _replaced(variables, partial(self._any.mark, mark=mark)),
                mark,
            )
        except RecursionError:
            raise UnmarkableText(
                "The messages or tools are nested too deeply to mark their control tokens."
            ) from None

    def _values(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> Iterator[tuple[_Finder, Any]]:
        yield self._any, variables
        for message in messages:
            if isinstance(message, Mapping):
                for key, value in message.items():
                    yield self._finder(message, key), value
            else:
                yield self._any, message

    def _finder(self, message: Mapping[str, Any], key: str) -> _Finder:
        """What is text in a field of a message."""
        return self._special if message.get("role") == "assistant" and key in _ANSWER_FIELDS else self._any

    def _marked_message(self, message: Any, mark: str) -> Any:
        if not isinstance(message, Mapping):
            return _replaced(message, partial(self._any.mark, mark=mark))
        marked = {}
        for key, value in message.items():
            finder = self._finder(message, key)
            marked[self._any.mark(key, mark)] = _replaced(value, partial(finder.mark, mark=mark))
        return marked

    def _in_parts(
        self, suspects: Sequence[tuple[_Finder, str]], found: Sequence[tuple[_Finder, str]]
    ) -> bool:
        """Whether a suspect ends with the beginning of a token, and a string found begins with what follows it."""
        begun = {part for finder, text in suspects if (part := finder.unfinished(text))}
        rests = {
            token[end:]
            for part in begun
            for token in self._any.tokens
            for end in range(1, len(token))
            if part.endswith(token[:end])
        }
        if not rests:
            return False
        whole = re.compile(_any_of(rests))
        partial = {rest[:end] for rest in rests for end in range(1, len(rest))}
        heads = (text.strip() for _, text in found)
        return any(whole.match(head) or head in partial for head in heads if head)


def _any_of(texts: Iterable[str]) -> str:
    """A regular expression for one of the texts; for none of them one that never matches."""
    return "|".join(map(re.escape, texts)) or r"(?!)"


def _strings(value: Any) -> Iterator[str]:
    """All strings in nested dictionaries and lists, keys included; needs no recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)


def _replaced(value: Any, text: Callable[[str], str]) -> Any:
    """A copy of nested dictionaries and lists with every string replaced."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {_replaced(key, text): _replaced(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, text) for item in value]
    return value
