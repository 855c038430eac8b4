"""The plot of `benchmarks front`, from figures as the benchmark makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.front.plots import draw_front

_FIGURES = {"api_us_per_token": 75.0, "engine_us_per_token": 45.0, "tokens_per_s": 10_000.0}
_LATENCIES = {"ttft_p99_ms": 40.0, "itl_p99_ms": 20.0}
_RUNS = {
    name: dict.fromkeys(("loragate", "stock"), _FIGURES | _LATENCIES)
    for name in ("plain_256", "plain_1", "tools_256")
}


@pytest.mark.parametrize("loads", [{}, {"load_25": _RUNS["plain_1"], "load_90": _RUNS["plain_1"]}])
def test_panels_by_load_are_drawn_where_there_are_loads(
    loads: dict[str, dict[str, dict[str, float]]], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = draw_front(_RUNS, loads, tmp_path / "plots")
    from matplotlib.image import imread

    height, width, _ = imread(path).shape
    panels = 5 if loads else 3
    assert width / height == pytest.approx(panels, rel=0.1)
