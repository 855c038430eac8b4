"""The plot of the policies' figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PANELS = {"hit": "adapter in memory", "p99_wait_s": "p99 wait, s", "served": "begun before the end"}
_LABELS = {"": "8/32, 70 %", "_85": "8/32, 85 %", "_16": "16/48, 70 %", "_16_85": "16/48, 85 %"}


def draw_placement(figures: Mapping[str, Mapping[str, Mapping[str, float]]], folder: Path) -> Path:
    """Bars by load (GPU slots/adapters held, share of busy sequences), one colour per policy; `placement.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    width = 0.8 / len(figures)
    for axis, (name, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for place, (policy, loads) in enumerate(figures.items()):
            values = [loads[suffix][name] for suffix in _LABELS]
            axis.bar([x + place * width for x in range(len(_LABELS))], values, width, label=policy)
        axis.set_xticks([x + 0.4 for x in range(len(_LABELS))], list(_LABELS.values()), fontsize=7)
        axis.set(title=title, yscale="symlog" if name == "p99_wait_s" else "linear")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path := folder / "placement.png", dpi=120)
    return path
