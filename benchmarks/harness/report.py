"""Percentiles, goodput and errors of a run: per tenant, per adapter and in all; as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.client import Sample
from benchmarks.harness.load_generator import Run

PERCENTS = (50, 90, 99)
_FILE_COLUMNS = 132


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good answer keeps; None is no limit."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None

    def kept(self, sample: Sample) -> bool:
        """Whether a request was answered, and in time. Inter-token latency is its mean per token."""
        if sample.error is not None:
            return False
        ttft_s = math.inf if sample.ttft_s is None else sample.ttft_s
        limits = (
            (self.ttft_ms, ttft_s),
            (self.itl_ms, sample.per_token_s or 0.0),
            (self.e2e_ms, sample.e2e_s),
        )
        return all(most_ms is None or 1000 * took_s <= most_ms for most_ms, took_s in limits)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks, as numpy does it; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles_ms(values_s: Iterable[float]) -> dict[str, float | None]:
    """`{"p50": …, "p90": …, "p99": …}` in milliseconds."""
    values = list(values_s)
    return {f"p{percent}": _ms(percentile(values, percent)) for percent in PERCENTS}


def summary(runs: Sequence[Run], slo: Slo) -> dict[str, Any]:
    """The figures of one run, or of several rounds of the same.

    Latencies are those of answered requests. `goodput_per_s` counts requests that kept the SLO.
    """
    samples = [sample for run in runs for sample in run.samples]
    answered = [sample for sample in samples if sample.error is None]
    seconds = sum(run.seconds for run in runs)
    good = sum(slo.kept(sample) for sample in samples)
    in_time = sum(s.error is None and s.end_s <= run.seconds for run in runs for s in run.samples)
    return {
        "requests": len(samples),
        "errors": dict(sorted(Counter(s.error for s in samples if s.error is not None).items())),
        "prompt_tokens": sum(sample.prompt_tokens for sample in answered),
        "output_tokens": sum(sample.output_tokens for sample in answered),
        "output_tokens_per_s": round(sum(run.tokens for run in runs) / seconds, 3),
        "requests_per_s": round(in_time / seconds, 4),
        "goodput_per_s": round(good / seconds, 4),
        "slo_kept": round(good / len(samples), 4) if samples else None,
        "ttft_ms": percentiles_ms(s.ttft_s for s in answered if s.ttft_s is not None),
        "itl_ms": percentiles_ms(gap for s in answered for gap in s.gaps_s),
        "tpot_ms": percentiles_ms(s.per_token_s for s in answered if s.per_token_s is not None),
        "e2e_ms": percentiles_ms(s.e2e_s for s in answered),
    }


def report(runs: Sequence[Run], slo: Slo) -> dict[str, Any]:
    """All figures: `total`, `tenants`, `adapters`, and how late the client itself was."""
    late_s = [sample.sent_s - sample.due_s for run in runs for sample in run.samples]
    return {
        "seconds": round(sum(run.seconds for run in runs), 3),
        "total": summary(runs, slo),
        "tenants": _grouped(runs, slo, lambda sample: sample.tenant),
        "adapters": _grouped(runs, slo, lambda sample: sample.model),
        "client_late_p99_ms": _ms(percentile(late_s, 99)),
    }


def wide_console() -> Console:
    """stdout; where it is a file, wide enough for the tables (rich would take 80 columns)."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def print_table(console: Console, figures: Mapping[str, Any], title: str) -> None:
    """One line per tenant, per adapter and for all; latencies in milliseconds, p50 / p90 / p99."""
    table = Table(title=title, title_justify="left")
    table.add_column("who")
    for name in ("requests", "errors", "tokens/s", "good/s", "TTFT ms", "ITL ms", "E2E ms"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [*figures["tenants"].items(), *figures["adapters"].items(), ("all", figures["total"])]
    for name, row in rows:
        table.add_row(name, *_cells(row))
    console.print(table)


def print_figures(
    console: Console, figures: Mapping[str, float], bounds: Mapping[str, tuple[str, float]]
) -> None:
    """Name, value, and the bound of those that have one: `{"name": ("<=", 0.7)}`."""
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("bound")
    for name, value in figures.items():
        sign, bound = bounds.get(name, ("", 0.0))
        verdict = "" if not sign else f"{sign} {bound:g}  {'ok' if holds(value, sign, bound) else 'MISSED'}"
        table.add_row(name, f"{value:.4g}", verdict)
    console.print(table)


def holds(value: float, sign: str, bound: float) -> bool:
    """Whether a figure keeps its bound; `sign` is "<=" or ">="."""
    return value <= bound if sign == "<=" else value >= bound


def print_json(figures: Mapping[str, Any], path: Path | None = None) -> None:
    """One compact object as the last line of stdout, and indented into a file if one is asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(figures, separators=(",", ":"), allow_nan=False), flush=True)


def _grouped(runs: Sequence[Run], slo: Slo, key: Callable[[Sample], str]) -> dict[str, dict[str, Any]]:
    names = sorted({key(sample) for run in runs for sample in run.samples})
    return {
        name: summary([Run([s for s in run.samples if key(s) == name], run.seconds) for run in runs], slo)
        for name in names
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    errors = " ".join(f"{kind}×{count}" for kind, count in row["errors"].items())
    latencies = [
        " / ".join(
            "–" if value is None else f"{value:.{1 if value < 100 else 0}f}" for value in row[name].values()
        )
        for name in ("ttft_ms", "itl_ms", "e2e_ms")
    ]
    speed, good = f"{row['output_tokens_per_s']:.1f}", f"{row['goodput_per_s']:.2f}"
    return [str(row["requests"]), errors or "0", speed, good, *latencies]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
