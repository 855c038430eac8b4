"""Ratios, and what counts as ended."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.harness.errors import InvalidOption
from benchmarks.hostile.benchmark import InputResult, main, summarize, victim_ratio
from benchmarks.hostile.victims import Latencies


def result(name: str, alone_s: float, beside_s: float, **fields: object) -> InputResult:
    given = {"answers": {"400": 3}, "cores_after": 0.0, "rss_mib": 100.0} | fields
    latencies = [Latencies({"plain": [0.01, s], "health": [0.001]}) for s in (alone_s, beside_s)]
    return InputResult(name, *latencies, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alone_s", "beside_s", "ratio"),
    [(0.1, 0.3, 1.0), (0.1, 0.35, 1.0), (0.1, 0.4, 4.0), (1.0, 1.9, 1.9), (0.0, 0.1, 1.0)],
)
def test_a_quarter_of_a_second_is_free(alone_s: float, beside_s: float, ratio: float) -> None:
    assert victim_ratio(alone_s, beside_s) == pytest.approx(ratio)


def test_the_worst_input_counts() -> None:
    figures = summarize([result("a", 0.1, 0.2), result("b", 0.5, 1.5), result("c", 0.5, 0.6)])
    assert figures["victim_worst_ratio"] == pytest.approx(3.0)
    assert figures["victim_worst_added_ms"] == pytest.approx(1000)
    assert figures["inputs"] == 3


def test_failures_and_work_that_goes_on_are_counted() -> None:
    failing = result(
        "a", 0.1, 0.1, cores_after=0.9, answers={"500": 2, "503": 1, "400": 1, "TimeoutError": 1}
    )
    failing.beside.failures = Counter({"plain: 500": 2})
    figures = summarize([failing, result("b", 0.1, 0.1)])
    assert figures["victim_failures"] == 2
    assert figures["not_ended"] == 1
    assert figures["server_errors"] == 2


def test_an_unknown_input_is_named() -> None:
    with pytest.raises(InvalidOption, match="--only nothing"):
        main(["--only", "nothing"])
