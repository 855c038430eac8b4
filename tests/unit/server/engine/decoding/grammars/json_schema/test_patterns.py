"""Which regular expressions xgrammar enforces as they are written."""

from __future__ import annotations

import pytest

from server.engine.decoding.grammars.json_schema.patterns import keeps_pattern

KEPT = (
    "abc",
    "^abc$",
    "^a|b$",
    "(a|b)",
    r"\^a\$",
    "[$^]a",
    r"[\]^]b",
    "(^a$)",
    "^(a|b)$",
    r"\\A",
    "(?:a|b)c",
)
NOT_KEPT = (
    "a^b",
    "a$b",
    "(a|^b)c$d",
    r"\Aa",
    r"a\b",
    r"a\Z",
    "(?=a)b",
    "a(?!b)c",
    "(?<=a)b",
    "(?<!a)b",
    "^a(|$)b",
)


@pytest.mark.parametrize("pattern", KEPT)
def test_an_anchor_at_an_end_changes_nothing(pattern: str) -> None:
    assert keeps_pattern(pattern)


@pytest.mark.parametrize("pattern", NOT_KEPT)
def test_an_anchor_elsewhere_and_look_around_are_not_for_xgrammar(pattern: str) -> None:
    assert not keeps_pattern(pattern)
