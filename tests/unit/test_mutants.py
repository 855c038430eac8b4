"""The report of `make mutants` passes no run that is incomplete or above the bar."""

from __future__ import annotations

import pytest

from tests.lint.mutants import report

CAUGHT: dict[str, int | None] = {f"caught{i}": 1 for i in range(19)}
NOT_ASKED: dict[str, int | None] = {"other": None}


@pytest.mark.parametrize(
    ("code", "met", "line"),
    [
        (1, True, "a.py: 0 of 20 not caught, 0 timed out"),
        (-24, True, "a.py: 0 of 20 not caught, 1 timed out"),
        (0, True, "  x: all tests passed"),
        (33, True, "  x: no test reaches it"),
        (-9, True, "  x: exit code -9"),
        (None, False, "  x: not tried"),
    ],
)
def test_each_outcome_is_named(code: int | None, met: bool, line: str) -> None:
    lines, is_met = report({"a.py": {**CAUGHT, "x": code}, "b.py": NOT_ASKED})
    assert line in lines
    assert is_met is met
    assert not any("b.py" in line for line in lines)


def test_more_than_a_twentieth_is_too_much() -> None:
    lines, met = report({"a.py": {**CAUGHT, "x": 0}, "b.py": {"y": 33}})
    assert not met
    assert lines[-1] == "2 of 21 mutants not caught (9.5%), 0 timed out; at most 5% may be"


def test_a_run_that_tried_nothing_proves_nothing() -> None:
    lines, met = report({"b.py": NOT_ASKED})
    assert not met
    assert lines[-1] == "No mutant was tried: `mutmut run` shows why."


def test_timeouts_of_a_busy_machine_prove_nothing() -> None:
    lines, met = report({"a.py": {**CAUGHT, "x": -24, "y": 36}})
    assert not met
    assert "2 timed out" in lines[-2] and "too busy" in lines[-1]
