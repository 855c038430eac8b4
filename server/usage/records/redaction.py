"""Replaces personal data and secrets in texts by marks such as `[email]`.

Made to miss little rather than to be rarely wrong: a number that only looks like a telephone number is replaced, too.
A tenant's own expressions may take any time: call it where the work can be ended (`server.engine.workers`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import regex

from adapters.errors import BadValue

#: Repetitions in one expression, multiplied: the library unrolls them when it compiles.
MAX_REPETITIONS = 1000
_REPETITIONS = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_TOKENS = re.compile(
    r"""\b(?: (?:AKIA|ASIA)[A-Z0-9]{16}                     # AWS
          | (?:sk|pk|rk|lg)[-_](?:[A-Za-z]+[-_])*[A-Za-z0-9_-]{16,}   # OpenAI, Anthropic, Stripe, loragate
          | AIza[A-Za-z0-9_-]{35}                           # Google
          | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_\w{22,} | glpat-[\w-]{20,}
          | hf_[A-Za-z0-9]{30,}                             # Hugging Face
          | xox[abeoprs]-[A-Za-z0-9-]{10,}                  # Slack
          | eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}        # JSON web token
          )""",
    re.VERBOSE,
)
_BEARER = re.compile(r"(?i)(\bbearer\s{1,3})[\w.~+/=-]{16,}")
_ASSIGNED = re.compile(
    r"(?i)(\b(?:pass(?:word|wd|phrase|code)?|pwd|secret|token"
    r"|(?:api|access|client|private)[ _-]?(?:key|secret|token))"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?)[^\s\"',;]{4,}"
)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{1,64}:)[^\s/@]{1,256}(?=@)")
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?\b")
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,}(?!\w)")
_GROUP = re.compile(r"\d+")
_PHONES = (
    re.compile(r"(?<![\w.])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]{0,2}\(?\d{1,5}\)?){2,6}(?!\w)"),
    re.compile(r"(?<![\w.-])\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}(?!\w)"),
    re.compile(r"(?<![\w.-])(?:\(0\d{1,5}\)|0\d{1,5})(?:[ /.-]{1,3}\d{2,8}){1,4}(?!\w)"),
)
_CARD_DIGITS = range(13, 20)


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse what cannot be used as an expression. Takes up to some tenths of a second: call it in a thread.

    Raises: BadValue.
    """
    for pattern in patterns:
        counts = [max(int(number or 1) for number in found) for found in _REPETITIONS.findall(pattern)]
        if prod(max(1, count) for count in counts) > MAX_REPETITIONS:
            raise BadValue(
                f"The repetitions in the pattern {pattern!r} are together above {MAX_REPETITIONS}; use + or *, or "
                "smaller numbers."
            )
        try:
            matches_nothing = regex.compile(pattern).search("", timeout=0.1)
        except (regex.error, OverflowError, RecursionError, TimeoutError) as error:
            raise BadValue(
                f"The pattern {pattern!r} is no regular expression: {error}. Correct it."
            ) from error
        if matches_nothing:
            raise BadValue(f"The pattern {pattern!r} matches an empty text; let it match something.")


class Redactor:
    """Replaces what the built-in patterns and a tenant's own match. Args: patterns: checked by `check_patterns`."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._own = [regex.compile(pattern) for pattern in patterns]

    def text(self, text: str) -> str:
        """The text with marks; the tenant's own patterns see it as it is."""
        for pattern in self._own:
            text = pattern.sub("[redacted]", text)
        text = _PRIVATE_KEY.sub("[secret]", text)
        text = _TOKENS.sub("[secret]", text)
        for before in (_BEARER, _ASSIGNED, _IN_ADDRESS):
            text = before.sub(r"\1[secret]", text)
        if "@" in text:
            text = _EMAIL.sub("[email]", text)
        text = _IBAN.sub(_if(_is_iban, "[iban]"), text)
        text = _DIGITS.sub(_without_cards, text)
        for phone in _PHONES:
            text = phone.sub("[phone]", text)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with marks in all its texts, names of fields and numbers."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.value(part) for part in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = str(value)
            marked = self.text(written)
            return value if marked == written else marked
        return value

    def arguments(self, text: str) -> str:
        """The arguments of a call, which are JSON in a text: JSON again; anything else is a text."""
        try:
            return json.dumps(self.value(json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.text(text)


def _if(valid: Callable[[str], bool], mark: str) -> Callable[[re.Match[str]], str]:
    return lambda found: mark if valid(found.group()) else found.group()


def _is_iban(text: str) -> bool:
    """ISO 13616's check sum."""
    compact = text.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34 or not compact.isascii():
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _without_cards(found: re.Match[str]) -> str:
    """Digits in groups, in which neighbouring groups that are a card's number are replaced."""
    text = found.group()
    groups = [(group.start(), group.end()) for group in _GROUP.finditer(text)]
    lengths = [0, *accumulate(end - start for start, end in groups)]
    digits = "".join(text[start:end] for start, end in groups)
    parts: list[str] = []
    copied = first = 0
    while first < len(groups):
        last = next(
            (
                last
                for last in range(len(groups), first, -1)
                if lengths[last] - lengths[first] in _CARD_DIGITS
                and _is_card(digits[lengths[first] : lengths[last]])
            ),
            None,
        )
        if last is None:
            first += 1
            continue
        parts += [text[copied : groups[first][0]], "[card]"]
        copied, first = groups[last - 1][1], last
    return "".join([*parts, text[copied:]])


def _is_card(digits: str) -> bool:
    """Luhn's check sum; one digit repeated is no card."""
    if len(set(digits)) < 2:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0
