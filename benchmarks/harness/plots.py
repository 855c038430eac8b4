"""PNG plots of a run; matplotlib is asked for only when a plot is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.client import Sample


class NoPlots(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


def load_matplotlib() -> ModuleType:
    """`matplotlib.pyplot`, drawing into files. Raises: NoPlots."""
    try:
        import matplotlib as drawing
    except ImportError as error:
        raise NoPlots("--plots needs matplotlib: pip install matplotlib, or leave --plots out") from error
    drawing.use("Agg")
    import matplotlib.pyplot as plt

    return plt  # type: ignore[no-any-return]


def draw_latencies(samples: Mapping[str, Sequence[Sample]], folder: Path) -> Path:
    """Cumulative shares of TTFT, inter-token and end-to-end latency, one line per server."""
    plt = load_matplotlib()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    for server, seen in samples.items():
        answered = [sample for sample in seen if sample.error is None]
        latencies_s = (
            [s.ttft_s for s in answered if s.ttft_s is not None],
            [gap for s in answered for gap in s.gaps_s],
            [s.e2e_s for s in answered],
        )
        for axis, values, title in zip(
            axes, latencies_s, ("TTFT", "between tokens", "end to end"), strict=True
        ):
            ordered = sorted(values)
            share = [(place + 1) / len(ordered) for place in range(len(ordered))]
            axis.plot([1000 * value for value in ordered], share, label=server)
            axis.set(title=title, xlabel="ms", xlim=(0, None))
    axes[0].set(ylabel="share of requests")
    axes[0].legend()
    return _save(plt, figure, folder / "latencies.png")


def draw_throughput(points: Mapping[str, Sequence[tuple[int, float]]], over: str, folder: Path) -> Path:
    """Output tokens per second over the number of `over` ("clients", "adapters"), one line per server."""
    plt = load_matplotlib()
    figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for server, line in points.items():
        axis.plot([x for x, _ in line], [y for _, y in line], marker="o", label=server)
    axis.set(xlabel=over, ylabel="output tokens per second", ylim=(0, None))
    axis.legend()
    return _save(plt, figure, folder / f"throughput-{over}.png")


def _save(plt: ModuleType, figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
