"""Checks a request's body against the limits of its size and shape, before any work that grows with it.

A body is parsed JSON: dicts, lists, texts, numbers, booleans and None. The time is linear in the body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sampling.errors import BodyLimitExceeded
from sampling.limits import Limits

#: The fields that hold the prompt, on any endpoint. A template or a tokenizer reads them, nothing else does.
PROMPT_FIELDS: Final = ("messages", "prompt", "input", "system", "documents", "tokens")
_BAD_WORD_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a JSON value."""

    values: int
    """JSON values of any kind, itself included; the keys of objects are not values."""
    depth: int
    """Levels of arrays and objects: 0 for a text or number, 1 for `[]`."""
    text_bytes: int
    """UTF-8 bytes of all texts, keys included."""


def measure(value: Any) -> Size:
    """Measure a JSON value, level by level."""
    level, values, depth, text_bytes = [value], 0, 0, 0
    while level:
        values += len(level)
        below: list[Any] = []
        nested = False
        for item in level:
            kind = type(item)
            if kind is str:
                text_bytes += _bytes(item)
            elif kind is dict:
                nested = True
                text_bytes += sum(map(_bytes, item))
                below.extend(item.values())
            elif kind is list:
                nested = True
                below.extend(item)
        depth += nested
        level = below
    return Size(values, depth, text_bytes)


def check_body(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse a body that is larger than a limit.

    Raises:
        BodyLimitExceeded: with the field, its size and the limit.
    """
    for name, limit in (("messages", "messages"), ("input", "messages"), ("tools", "tools")):
        items = body.get(name)
        _check(limits, limit, len(items) if isinstance(items, list) else 0, name, name)
    _check(limits, "prompts", _sequences(body), "prompts x n", "prompt")
    size = measure(dict(body))
    _check(limits, "body_values", size.values, "JSON values", "body")
    _check(limits, "body_depth", size.depth, "levels of nested JSON", "body")
    _check(limits, "text_bytes", size.text_bytes, "bytes of text", "body")
    options = [value for name, value in body.items() if name not in PROMPT_FIELDS and name != "tools"]
    _check(
        limits, "option_values", measure(options).values, "JSON values outside of prompt and tools", "body"
    )
    _check_bad_words(body.get("bad_words"), limits)
    if limits.schema_bytes is not None and body.get("tools"):
        _check(limits, "schema_bytes", len(json.dumps(body["tools"])), "bytes of tools", "tools")


def _check(limits: Limits, name: str, found: int, counted: str, param: str) -> None:
    limit = getattr(limits, name)
    if limit is not None and found > limit:
        raise BodyLimitExceeded(name, found, limit, counted, param)


def _check_bad_words(words: Any, limits: Limits) -> None:
    if limits.bad_words is None or not isinstance(words, list):
        return
    _check(limits, "bad_words", len(words), "bad_words", "bad_words")
    characters = sum(len(word) for word in words if isinstance(word, str))
    limit = _BAD_WORD_CHARACTERS * limits.bad_words
    if characters > limit:
        counted = f"characters of bad_words ({_BAD_WORD_CHARACTERS} for each allowed one)"
        raise BodyLimitExceeded("bad_words", characters, limit, counted, "bad_words")


def _sequences(body: Mapping[str, Any]) -> int:
    """Sequences that a completion asks for; 1 prompt when `prompt` is a text or one list of token ids."""
    prompt, n = body.get("prompt"), body.get("n")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and type(prompt[0]) is not int else 1
    return prompts * (n if type(n) is int and n > 0 else 1) if "prompt" in body else 0


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
