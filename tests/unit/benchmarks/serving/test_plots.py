"""The plots show the measured values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.harness.client import RequestResult
from benchmarks.serving import plots


def result(number: int, ttft_s: float, error: str | None = None) -> RequestResult:
    times_s = [ttft_s, ttft_s + 0.01, ttft_s + 0.03]
    return RequestResult(
        number, "acme", "acme-support", 0.0, 0.0, times_s, ttft_s + 0.04, 8, 3, "x", error=error
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The figures that are written."""
    figures: list[object] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def test_latencies_have_one_line_per_server_without_failed_requests(
    tmp_path: Path, drawn: list[object]
) -> None:
    results = {
        "loragate": [result(i, 0.1 * (i + 1)) for i in range(4)] + [result(9, 99.0, error="timeout")],
        "stock": [result(i, 0.2) for i in range(3)],
    }
    written = plots.draw_latencies(results, tmp_path / "new")
    assert written.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    ttft, itl, _ = figure.axes  # type: ignore[attr-defined]
    ours, stock = ttft.get_lines()
    assert list(ours.get_xdata()) == pytest.approx([100, 200, 300, 400])
    assert list(ours.get_ydata()) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert (ours.get_label(), stock.get_label()) == ("loragate", "stock")
    assert len(itl.get_lines()[0].get_xdata()) == 8


@pytest.mark.parametrize("over", ["clients", "adapters"])
def test_throughput_over_the_swept_parameter(tmp_path: Path, drawn: list[object], over: str) -> None:
    points = {"loragate": [(1, 10.0), (8, 60.0)], "stock": [(1, 9.0), (8, 30.0)]}
    written = plots.draw_throughput(points, over, tmp_path)
    assert written.name == f"throughput-{over}.png" and written.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    (axis,) = figure.axes  # type: ignore[attr-defined]
    assert axis.get_xlabel() == over
    assert [list(line.get_ydata()) for line in axis.get_lines()] == [[10, 60], [9, 30]]
