"""The benchmark of conditions: its figures, and what it trains the worse versions on."""

from __future__ import annotations

from typing import Any

from benchmarks.training.promotion_gate import Decision, figures_of
from benchmarks.training.versions import shuffle_answers


def row(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


def test_both_kinds_of_wrong_decisions_count() -> None:
    right = [Decision(True, 0.5, 0.6, True), Decision(False, 0.9, 0.1, False)]
    assert figures_of(right)["wrong_decisions"] == 0
    found = figures_of([*right, Decision(True, 0.7, 0.3, False), Decision(False, 0.8, 0.2, True)])
    assert (found["wrong_decisions"], found["better_promoted"], found["worse_refused"]) == (2, 1, 1)
    assert (found["largest_better_loss"], found["smallest_worse_loss"]) == (0.7, 0.8)


def test_the_answers_change_their_questions_and_nothing_else() -> None:
    rows = [row(f"q{n}", f"a{n}", f"r{n}", f"b{n}") for n in range(20)]
    found = shuffle_answers(rows, seed=1)
    for role, same in (("user", True), ("assistant", False)):
        texts = [
            [m["content"] for each in of for m in each["messages"] if m["role"] == role]
            for of in (rows, found)
        ]
        assert sorted(texts[0]) == sorted(texts[1])
        assert (texts[0] == texts[1]) is same
    assert found != shuffle_answers(rows, seed=2)
    assert rows[0] == row("q0", "a0", "r0", "b0"), "the rows that were given stay"
