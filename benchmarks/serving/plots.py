"""PNG plots of a run; matplotlib is imported only if plots are requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.client import RequestResult


def draw_latencies(results: Mapping[str, Sequence[RequestResult]], folder: Path) -> Path:
    """Cumulative distributions of TTFT, inter-token and end-to-end latency, one line per server."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for server, its_results in results.items():
        answered = [result for result in its_results if result.error is None]
        latencies_s = (
            [r.ttft_s for r in answered if r.ttft_s is not None],
            [itl_s for r in answered for itl_s in r.itl_s],
            [r.e2e_s for r in answered],
        )
        titles = ("TTFT", "between tokens", "end to end")
        for axis, values, title in zip(axes, latencies_s, titles, strict=True):
            ordered = sorted(values)
            share = [(place + 1) / len(ordered) for place in range(len(ordered))]
            axis.plot([1000 * value for value in ordered], share, label=server)
            axis.set(title=title, xlabel="ms", xlim=(0, None))
    axes[0].set(ylabel="share of requests")
    axes[0].legend()
    return _save(figure, folder / "latencies.png")


def draw_throughput(points: Mapping[str, Sequence[tuple[int, float]]], parameter: str, folder: Path) -> Path:
    """Output tokens per second over the number of "clients" or "adapters", one line per server."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for server, line in points.items():
        axis.plot([x for x, _ in line], [y for _, y in line], marker="o", label=server)
    axis.set(xlabel=parameter, ylabel="output tokens per second", ylim=(0, None))
    axis.legend()
    return _save(figure, folder / f"throughput-{parameter}.png")


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
