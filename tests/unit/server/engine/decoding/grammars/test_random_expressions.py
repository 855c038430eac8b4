"""What the grammar of a regular expression accepts matches it by Python's `re`: as `regex` and as `pattern`."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server.engine.decoding.grammars.errors import GrammarRefused
from tests.unit.server.engine.decoding.grammars.grammar_rig import GrammarRig

TEXTS = ["".join(letters) for count in range(5) for letters in itertools.product('ab1"', repeat=count)]
TRIES = 50
PIECES = ["a", "b", "[ab]", "\\d", "[^a]", '"', "ab", ".", "^", "$", "(?=a)", "(?!a)", "\\b", "(?:ab)"]
COUNTS = ["", "", "?", "+", "*", "{1,2}"]
OPEN_ENDED = ("^", "$", "(?", "\\b")


def _counted(piece: str, count: str) -> str:
    """A piece that is a position has no count."""
    return piece if piece.startswith(OPEN_ENDED) and piece != "(?:ab)" else f"{piece}{count}"


def _grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    alternatives = st.lists(inner, min_size=1, max_size=2).map(lambda found: f"({'|'.join(found)})")
    return st.builds(lambda group, count: group + count, alternatives, st.sampled_from(COUNTS))


pieces = st.builds(_counted, st.sampled_from(PIECES), st.sampled_from(COUNTS))
expressions = st.recursive(
    st.lists(pieces, min_size=1, max_size=3).map("".join),
    lambda inner: st.lists(_grouped(inner) | inner, min_size=1, max_size=3).map("".join),
    max_leaves=5,
)


def check_expressions(rig: GrammarRig, kind: str, count: int) -> None:
    accepted = []

    @settings(
        max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(expressions, st.integers(0, 1 << 30))
    def check(expression: str, seed: int) -> None:
        whole = re.compile(expression).fullmatch if kind == "regex" else re.compile(expression).search
        schema = {"type": "string", "pattern": expression}
        try:
            _, name = rig.prepared(**{"regex": expression} if kind == "regex" else {"json": schema})
        except GrammarRefused:
            return
        for text in random.Random(seed).sample(TEXTS, TRIES):
            if rig.accepts(name, text if kind == "regex" else json.dumps(text)):
                accepted.append(text)
                assert whole(text), f"{kind} {expression!r} accepts {text!r}"

    check()
    assert len(accepted) > count / 10, "too few texts were accepted"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regex", "pattern"])
def test_what_is_accepted_matches(rig: GrammarRig, kind: str) -> None:
    check_expressions(rig, kind, 100)  # fewer accept too few texts


@pytest.mark.long
@pytest.mark.parametrize("kind", ["regex", "pattern"])
def test_what_is_accepted_matches_for_thousands(rig: GrammarRig, kind: str) -> None:
    check_expressions(rig, kind, 2000)
