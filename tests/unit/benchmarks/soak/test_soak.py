"""Errors of answers and growth of memory in the soak."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.soak.benchmark import rss_growth
from benchmarks.soak.clients import SoakCounters, _error_kind


@pytest.mark.parametrize(
    ("status", "text", "stream", "kind"),
    [
        (200, "{}", False, None),
        (500, "{}", False, "500"),
        (200, 'data: {"choices":[]}\n\ndata: [DONE]\n\n', True, None),
        (200, 'data: {"choices":[]}\n\n', True, "cut off"),
        (200, "", True, "cut off"),
        (200, 'data: {"error":{}}\n\ndata: [DONE]\n\n', True, "error event"),
    ],
)
def test_errors_of_answers(status: int, text: str, stream: bool, kind: str | None) -> None:
    assert _error_kind(httpx.Response(status, text=text), stream=stream) == kind


def test_growth_ignores_the_warm_up() -> None:
    climbing = [(float(s), 100 + s) for s in range(60)]  # the warm-up is not a leak
    steady = [(float(s), 200) for s in range(60, 1200)]
    assert rss_growth(climbing + steady, 1200) == 0
    leaking = [(float(s), 200 + s // 10) for s in range(60, 1200)]
    assert rss_growth(climbing + leaking, 1200) > 0.4


def test_errors_are_summed() -> None:
    counters = SoakCounters()
    counters.errors["500"] += 2
    counters.errors["cut off"] += 1
    assert counters.figures()["errors"] == 3
