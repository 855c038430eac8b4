"""What the soak counts as a fault, and as growth."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.soak.benchmark import Memory
from benchmarks.soak.clients import Counts, _fault


@pytest.mark.parametrize(
    ("status", "text", "stream", "fault"),
    [
        (200, "{}", False, None),
        (500, "{}", False, "500"),
        (200, 'data: {"choices":[]}\n\ndata: [DONE]\n\n', True, None),
        (200, 'data: {"choices":[]}\n\n', True, "cut off"),
        (200, "", True, "cut off"),
        (200, 'data: {"error":{}}\n\ndata: [DONE]\n\n', True, "error event"),
    ],
)
def test_faults(status: int, text: str, stream: bool, fault: str | None) -> None:
    assert _fault(httpx.Response(status, text=text), stream=stream) == fault


def test_growth_leaves_the_start_out() -> None:
    climbing = [(float(s), 100 + s) for s in range(60)]  # warming up is no leak
    steady = [(float(s), 200) for s in range(60, 1200)]
    assert Memory(climbing + steady).growth(1200) == 0
    leaking = [(float(s), 200 + s // 10) for s in range(60, 1200)]
    assert Memory(climbing + leaking).growth(1200) > 0.4


def test_errors_are_summed() -> None:
    counts = Counts()
    counts.errors["500"] += 2
    counts.errors["cut off"] += 1
    assert counts.figures()["errors"] == 3
