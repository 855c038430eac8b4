"""Conditions of promotions: what they say of figures, and that nothing else of Python is understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.promotion.condition import FIGURES, Condition
from adapters.promotion.errors import BadCondition

NEW = {"exact": 0.8, "calls_right": 0.9, "loss": 0.5, "json_valid": None, "turns": 40}
CURRENT = {"exact": 0.8, "calls_right": 0.905, "loss": 0.6, "turns": 40}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("calls_right >= @current - 0.01 and loss < @current", True),
        ("calls_right >= @current", False),
        ("calls_right >= @current or loss < @current", True),
        ("not loss > 0.4", False),
        ("0.7 <= exact <= 0.9", True),
        ("0.7 <= exact < 0.8", False),
        ("loss < 0.9 * @current", True),
        ("loss < @current / 2", False),
        ("-loss > -1 and (exact > .5)", True),
        ("  loss\n<  1 ", True),
        ("json_valid >= 0", False),
        ("loss < 1 / 0", False),
        ("loss < 2*@current-0.7", False),
    ],
)
def test_what_figures_meet(text: str, passes: bool) -> None:
    verdict = Condition.parse(text).judge(NEW, CURRENT)
    assert verdict.passes is passes
    assert bool(verdict.reasons) is not passes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "calls_right >= @current - 0.001",
            "calls_right is 0.9, and @current - 0.001 is 0.904: calls_right >= @current - 0.001 does not hold",
        ),
        ("exact > 0.9 and loss < 1", "exact is 0.8: exact > 0.9 does not hold"),
        ("json_valid > 0.9", "json_valid was not measured: the chats have no turn for it"),
        ("not exact > 0.5", "exact > 0.5 holds"),
    ],
)
def test_a_refusal_names_the_figure(text: str, reason: str) -> None:
    assert Condition.parse(text).judge(NEW, CURRENT).reasons == (reason,)


def test_every_part_that_does_not_hold_is_named() -> None:
    assert len(Condition.parse("exact > 1 and calls_right > 1 and loss < 1").judge(NEW).reasons) == 2


def test_a_figure_that_the_current_version_lacks_does_not_pass() -> None:
    verdict = Condition.parse("loss < @current").judge(NEW, {"exact": 1.0})
    assert (verdict.passes, verdict.reasons) == (False, ("loss of @current is not known",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "loss",
        "0.5",
        "True",
        "loss < True",
        "loss == 0.5",
        "loss < 'a'",
        "loss < 1j",
        "loss < 1e999",
        "los < 1",
        "loss < exact",
        "1 < 2",
        "@current < 1",
        "loss < @previous",
        "loss @ current",
        "loss < __current__",
        "loss < loss.__class__",
        "loss < f(1)",
        "loss < [1][0]",
        "loss < (x := 1)",
        "loss < 9**9**9",
        "loss < 1 if exact > 1 else 2",
        "(lambda: loss)() < 1",
        "loss < 1; import os",
        "loss < 1 #",
        "loss < 1 and exact",
        "loss is 1",
        "__import__('os').system('true') < 1",
        "(" * 230 + "loss" + ")" * 230 + " < 1",
        "loss < " + "1+" * 300 + "1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    if text == "loss < 1 #":  # a comment says nothing
        assert Condition.parse(text).judge(NEW).passes
        return
    with pytest.raises(BadCondition):
        Condition.parse(text)


@given(st.text(max_size=60) | st.text(alphabet="loss<>=@currentandornot().0123456789+-*/_ ", max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = Condition.parse(text)
    except BadCondition:
        return
    assert condition.figures and set(condition.figures) <= set(FIGURES)
    assert condition.judge(NEW, CURRENT).passes in (True, False)


def test_what_it_needs() -> None:
    assert Condition.parse("loss < @current").needs_current
    assert not Condition.parse("loss < 1 and exact > 0").needs_current
    assert Condition.parse("loss < 1 and exact > 0").figures == ("exact", "loss")
