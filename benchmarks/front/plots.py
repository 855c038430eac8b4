"""The plot of what a server spends beside its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Panel: the name of its figure, its title, and whether it is drawn by load instead of by the number of streams.
_PANELS = (
    ("api_us_per_token", "API process, µs per token", False),
    ("engine_us_per_token", "EngineCore, µs per token", False),
    ("tokens_per_s", "tokens per second", False),
    ("ttft_p99_ms", "first token, p99, ms", True),
    ("itl_p99_ms", "between tokens, p99, ms", True),
)

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name of the run → server → figure → value."""


def draw_front(runs: Figures, loads: Figures, folder: Path) -> Path:
    """Lines by streams at once, and by the share of stock's highest rate, one colour per server; `front.png`.

    Args:
        runs: those named `plain_N` are drawn, with N streams.
        loads: named `load_N`, with N percent of the rate; without them their panels are left out.
    """
    from matplotlib.figure import Figure

    panels = [panel for panel in _PANELS if loads or not panel[2]]
    figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    for axis, (name, title, is_by_load) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        points = _by_number(loads, "load_") if is_by_load else _by_number(runs, "plain_")
        for server in next(iter(points.values())):
            axis.plot(list(points), [point[server][name] for point in points.values()], "o-", label=server)
        axis.set(title=title)
        if is_by_load:
            axis.set(xlabel="% of stock's highest rate", ylim=(0, None))
        else:
            axis.set(xlabel="streams at once", xscale="log", yscale="log")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path := folder / "front.png", dpi=120)
    return path


def _by_number(figures: Figures, prefix: str) -> dict[int, Mapping[str, Mapping[str, Any]]]:
    """The figures of the runs whose names are the prefix and a number, by that number."""
    numbered = {
        int(name.removeprefix(prefix)): run for name, run in figures.items() if name.startswith(prefix)
    }
    return dict(sorted(numbered.items()))
