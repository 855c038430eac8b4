"""Kinds of option values: what is accepted, and how to say it.

JSON types are taken at their word, as the OpenAI API does: a string is no number and `true` is no integer.
NOTE: vLLM's pydantic models would turn `"100000"` into an integer, after our limits had looked at a string.
An integral float (`512.0`) is accepted for an integer, as vLLM accepts it.
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
    """Decides about one JSON value; `expected` completes the sentence "the field must be …"."""

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
        # NaN fails every comparison and an infinity fails the upper one, so neither needs a test of its own.
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high


@dataclass(frozen=True, slots=True)
class Integer:
    """A JSON integer in [low, high]. `special` says what a value like -1 or 0 means.

    The engine's transport (msgpack) carries 64-bit integers only, so that is the widest range there is.
    """

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
    """One of a few strings."""

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
    """A list of non-empty strings; with `bare`, also one string alone."""

    bare: bool = False
    most: int | None = None

    @property
    def type_name(self) -> str:
        return "string or list of strings" if self.bare else "list of strings"

    @property
    def range_text(self) -> str:
        return "non-empty" if self.most is None else f"up to {self.most}, non-empty"

    @property
    def expected(self) -> str:
        count = "" if self.most is None else f"up to {self.most} "
        return f"{'a non-empty string or ' if self.bare else ''}a list of {count}non-empty strings"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.bare and value != ""
        if not isinstance(value, list) or (self.most is not None and len(value) > self.most):
            return False
        return all(isinstance(item, str) and item for item in value)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A list of token ids; whether each is in the vocabulary is for vLLM to say."""

    least: int = 0
    most: int | None = None

    type_name = "list of integers"

    @property
    def range_text(self) -> str:
        bounds = ("at least one, " if self.least else "") + (f"up to {self.most}, " if self.most else "")
        return f"{bounds}ids in the vocabulary"

    @property
    def expected(self) -> str:
        bounds = ("at least one" if self.least else "") + (f"up to {self.most}" if self.most else "")
        return f"a list of {bounds + ' ' if bounds else ''}token ids, each an integer from 0"

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list) or len(value) < self.least:
            return False
        if self.most is not None and len(value) > self.most:
            return False
        return all(type(item) is int and 0 <= item <= INT64_MAX for item in value)


_BIAS = Number(-100, 100)


@dataclass(frozen=True, slots=True)
class TokenBias:
    """A map from token id, as a string, to a bias in [-100, 100].

    NOTE: vLLM clamps a bias outside that range without a word (`SamplingParams.from_optional`); we refuse it.
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

    NOTE: vLLM sets no bound and tries every size at every token, in the loop that serves all tenants
    (`vllm.v1.core.sched.utils.check_sequence_repetition`); one request could slow down everybody.
    """

    longest_tokens: int = 256

    type_name = "object"

    @property
    def range_text(self) -> str:
        return f"max_pattern_size 0 … {self.longest_tokens}, min_count ≥ 2"

    @property
    def expected(self) -> str:
        return (
            f"an object with max_pattern_size from 0 to {self.longest_tokens}, min_pattern_size from 0 to "
            "max_pattern_size, and min_count of at least 2 (any when max_pattern_size is 0)"
        )

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        fields = ("max_pattern_size", "min_pattern_size", "min_count")
        sizes: list[int] = [value.get(name, 0) for name in fields]
        if not all(type(size) is int and INT64_MIN <= size <= INT64_MAX for size in sizes):
            return False
        longest, shortest, count = sizes
        return 0 <= shortest <= longest <= self.longest_tokens and (longest == 0 or count >= 2)


@dataclass(frozen=True, slots=True)
class Structure:
    """A nested value that vLLM's own models check: its JSON type is all we look at."""

    type_name: str
    types: tuple[type, ...]
    range_text: str = "see vLLM"

    @property
    def expected(self) -> str:
        return f"{'an' if self.type_name[0] in 'aeiou' else 'a'} {self.type_name}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.types)
