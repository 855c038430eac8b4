"""Kinds of option values: the accepted values and their description.

JSON types are strict, as in the OpenAI API: a string is not a number, and `true` is not an integer.
NOTE: vLLM's pydantic models convert `"100000"` to an integer, after our limits have seen only a string.
An integral float (`512.0`) is accepted as an integer, as in vLLM.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
FLOAT_MAX = sys.float_info.max


class Kind(Protocol):
    """Checks one JSON value; `expected` completes the sentence "the field must be …"."""

    @property
    def type_name(self) -> str: ...
    @property
    def expected(self) -> str: ...
    @property
    def range_text(self) -> str: ...
    def accepts(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Number:
    """A finite JSON number in [low, high], or (low, high] with `open_low`."""

    low: float
    high: float
    open_low: bool = False

    type_name = "number"

    @property
    def range_text(self) -> str:
        if self.high == FLOAT_MAX:
            return f"> {self.low:g}" if self.open_low else "any finite"
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"

    @property
    def expected(self) -> str:
        if self.high == FLOAT_MAX:
            return f"a finite number above {self.low:g}" if self.open_low else "a finite number"
        start = "above" if self.open_low else "from"
        return f"a number {start} {self.low:g} {'up ' if self.open_low else ''}to {self.high:g}"

    def accepts(self, value: Any) -> bool:
        if type(value) is not float and type(value) is not int:
            return False
        # NaN fails every comparison and infinity the upper one, so neither needs its own test.
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high


@dataclass(frozen=True, slots=True)
class Integer:
    """A JSON integer in [low, high], at most 64 bits (msgpack's limit); `special` explains values such as -1 or 0."""

    low: int = INT64_MIN
    high: int = INT64_MAX
    special: str = ""

    type_name = "integer"

    @property
    def range_text(self) -> str:
        if self.low == INT64_MIN:
            return "64-bit"
        return f"≥ {self.low}" if self.high == INT64_MAX else f"{self.low} … {self.high}"

    @property
    def expected(self) -> str:
        suffix = f" ({self.special})" if self.special else ""
        if self.low == INT64_MIN:
            return f"a 64-bit integer{suffix}"
        if self.high == INT64_MAX:
            return f"an integer of at least {self.low}{suffix}"
        return f"an integer from {self.low} to {self.high}{suffix}"

    def accepts(self, value: Any) -> bool:
        if type(value) is not int and (type(value) is not float or not value.is_integer()):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Boolean:
    """`true` or `false`."""

    type_name = "boolean"
    expected = "true or false"
    range_text = "true, false"

    def accepts(self, value: Any) -> bool:
        return type(value) is bool


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a fixed set of strings."""

    choices: tuple[str, ...]

    type_name = "string"

    @property
    def range_text(self) -> str:
        return ", ".join(self.choices)

    @property
    def expected(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.choices


@dataclass(frozen=True, slots=True)
class Strings:
    """A list of non-empty strings; with `or_string`, also a single string."""

    or_string: bool = False
    max_items: int | None = None

    @property
    def type_name(self) -> str:
        return "string or list of strings" if self.or_string else "list of strings"

    @property
    def range_text(self) -> str:
        return "non-empty" if self.max_items is None else f"up to {self.max_items}, non-empty"

    @property
    def expected(self) -> str:
        start = "a non-empty string or a list" if self.or_string else "a list"
        return f"{start} of {'' if self.max_items is None else f'up to {self.max_items} '}non-empty strings"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.or_string and value != ""
        is_list = isinstance(value, list) and (self.max_items is None or len(value) <= self.max_items)
        return is_list and all(isinstance(item, str) and item for item in value)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A list of token ids; vLLM checks that each is in the vocabulary."""

    min_items: int = 0
    max_items: int | None = None

    type_name = "list of integers"

    @property
    def _bounds(self) -> str:
        return "at least one" if self.min_items else f"up to {self.max_items}" if self.max_items else ""

    @property
    def range_text(self) -> str:
        return f"{self._bounds}{', ' if self._bounds else ''}ids in the vocabulary"

    @property
    def expected(self) -> str:
        return f"a list of {self._bounds}{' ' if self._bounds else ''}token ids, each an integer from 0"

    def accepts(self, value: Any) -> bool:
        max_items = INT64_MAX if self.max_items is None else self.max_items
        is_list = isinstance(value, list) and self.min_items <= len(value) <= max_items
        return is_list and all(type(item) is int and 0 <= item <= INT64_MAX for item in value)


_BIAS = Number(-100, 100)


@dataclass(frozen=True, slots=True)
class TokenBias:
    """A map from token id, as a string, to a bias in [-100, 100].

    NOTE: vLLM silently clamps a bias outside that range (`SamplingParams.from_optional`); we refuse it.
    """

    type_name = "object"
    expected = "an object of token ids (as strings) with numbers from -100 to 100"
    range_text = "[-100, 100] per token"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(map(self._is_entry, value.items()))

    @staticmethod
    def _is_entry(entry: tuple[Any, Any]) -> bool:
        token, bias = entry
        return isinstance(token, str) and token.isdecimal() and len(token) <= 18 and _BIAS.accepts(bias)


@dataclass(frozen=True, slots=True)
class PatternRule:
    """vLLM's `RepetitionDetectionParams`, with a bound on the pattern's size.

    NOTE: vLLM has no bound and tries every size at every token, in the loop that serves all tenants
    (`vllm.v1.core.sched.utils.check_sequence_repetition`), so one request could slow down all tenants.
    """

    max_pattern_tokens: int = 256

    type_name = "object"

    @property
    def range_text(self) -> str:
        return f"max_pattern_size 0 … {self.max_pattern_tokens}, min_count ≥ 2"

    @property
    def expected(self) -> str:
        return (
            f"an object with max_pattern_size from 0 to {self.max_pattern_tokens}, min_pattern_size from 0 to "
            "max_pattern_size, and min_count of at least 2 (any when max_pattern_size is 0)"
        )

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        sizes: list[int] = [value.get(n, 0) for n in ("max_pattern_size", "min_pattern_size", "min_count")]
        if not all(type(size) is int and INT64_MIN <= size <= INT64_MAX for size in sizes):
            return False
        longest, shortest, count = sizes
        return 0 <= shortest <= longest <= self.max_pattern_tokens and (longest == 0 or count >= 2)


@dataclass(frozen=True, slots=True)
class Structure:
    """A nested value that vLLM's own models check; only its JSON type is checked here."""

    type_name: str
    types: tuple[type, ...]
    range_text: str = "see vLLM"

    @property
    def expected(self) -> str:
        return f"{'an' if self.type_name[0] in 'aeiou' else 'a'} {self.type_name}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.types)
