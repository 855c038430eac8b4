"""Percentiles, goodput and errors of a run, per tenant, per adapter and in total, as a table and as JSON."""

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

from benchmarks.harness.client import RequestResult
from benchmarks.harness.environment import machine
from benchmarks.harness.load_generator import RunResult

PERCENTS = (50, 90, 99)
_FILE_COLUMNS = 132

#: Figure → the comparison, "<=" or ">=", and the value: `{"startup_vs_stock": ("<=", 0.7)}`.
Bounds = Mapping[str, tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Slo:
    """Service-level objective of one request; None is no limit."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None

    def met_by(self, result: RequestResult) -> bool:
        """Whether a request was answered within the limits. Its inter-token latency is the mean per token."""
        if result.error is not None:
            return False
        ttft_s = math.inf if result.ttft_s is None else result.ttft_s
        limits = (
            (self.ttft_ms, ttft_s),
            (self.itl_ms, result.tpot_s or 0.0),
            (self.e2e_ms, result.e2e_s),
        )
        return all(limit_ms is None or 1000 * took_s <= limit_ms for limit_ms, took_s in limits)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """numpy's percentile (linear between the two nearest ranks); None without values."""
    import numpy as np  # not above: importing it would make `--help` slower by a sixth

    return float(np.percentile(values, percent)) if values else None


def percentiles_ms(values_s: Iterable[float]) -> dict[str, float | None]:
    """`{"p50": …, "p90": …, "p99": …}` in milliseconds."""
    values = list(values_s)
    return {f"p{percent}": _ms(percentile(values, percent)) for percent in PERCENTS}


def summary(runs: Sequence[RunResult], slo: Slo) -> dict[str, Any]:
    """The figures of one run, or of several rounds of the same load.

    Latencies are those of answered requests. `goodput_per_s` counts requests that met the SLO.
    """
    results = [result for run in runs for result in run.results]
    answered = [result for result in results if result.error is None]
    seconds = sum(run.seconds for run in runs)
    good = sum(slo.met_by(result) for result in results)
    in_time = sum(r.error is None and r.end_s <= run.seconds for run in runs for r in run.results)
    return {
        "requests": len(results),
        "errors": dict(sorted(Counter(r.error for r in results if r.error is not None).items())),
        "prompt_tokens": sum(result.prompt_tokens for result in answered),
        "output_tokens": sum(result.output_tokens for result in answered),
        "output_tokens_per_s": round(sum(run.tokens for run in runs) / seconds, 3),
        "requests_per_s": round(in_time / seconds, 4),
        "goodput_per_s": round(good / seconds, 4),
        "slo_kept": round(good / len(results), 4) if results else None,
        "ttft_ms": percentiles_ms(r.ttft_s for r in answered if r.ttft_s is not None),
        "itl_ms": percentiles_ms(itl_s for r in answered for itl_s in r.itl_s),
        "tpot_ms": percentiles_ms(r.tpot_s for r in answered if r.tpot_s is not None),
        "e2e_ms": percentiles_ms(r.e2e_s for r in answered),
    }


def report(runs: Sequence[RunResult], slo: Slo) -> dict[str, Any]:
    """All figures: `total`, `tenants`, `adapters`, and how late the client sent its requests."""
    late_s = [result.sent_s - result.due_s for run in runs for result in run.results]
    return {
        "seconds": round(sum(run.seconds for run in runs), 3),
        "total": summary(runs, slo),
        "tenants": _grouped(runs, slo, lambda result: result.tenant),
        "adapters": _grouped(runs, slo, lambda result: result.model),
        "client_late_p99_ms": _ms(percentile(late_s, 99)),
    }


def print_table(figures: Mapping[str, Any], title: str) -> None:
    """Print one row per tenant, per adapter and for all; latencies in milliseconds, p50 / p90 / p99."""
    table = Table(title=title, title_justify="left")
    table.add_column("who")
    for name in ("requests", "errors", "tokens/s", "good/s", "TTFT ms", "ITL ms", "E2E ms"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [*figures["tenants"].items(), *figures["adapters"].items(), ("all", figures["total"])]
    for name, row in rows:
        table.add_row(name, *_cells(row))
    _print(table)


def print_figures(figures: Mapping[str, float], bounds: Bounds) -> None:
    """Print name and value of every figure, and its bound if it has one."""
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("bound")
    for name, value in figures.items():
        sign, bound = bounds.get(name, ("", 0.0))
        verdict = "" if not sign else f"{sign} {bound:g}  {'ok' if holds(value, sign, bound) else 'MISSED'}"
        table.add_row(name, f"{value:.4g}", verdict)
    _print(table)


def holds(value: float, sign: str, bound: float) -> bool:
    """Whether a figure is within its bound; `sign` is "<=" or ">="."""
    return value <= bound if sign == "<=" else value >= bound


def exit_code(figures: Mapping[str, float], bounds: Bounds) -> int:
    """0 if every bound holds, else 1. A figure that is missing does not hold its bound."""
    met = (name in figures and holds(figures[name], *bound) for name, bound in bounds.items())
    return 0 if all(met) else 1


def publish(
    benchmark: str, figures: Mapping[str, float], bounds: Bounds, path: Path | None, **more: object
) -> int:
    """Print the table of figures and the JSON object with `more`; returns the exit code of the benchmark."""
    print_figures(figures, bounds)
    print_json({**figures, **more, "benchmark": benchmark, "machine": machine()}, path)
    return exit_code(figures, bounds)


def print_json(figures: Mapping[str, Any], path: Path | None = None) -> None:
    """Print one compact object as the last line of stdout; with `path`, also write it indented to a file."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(figures, separators=(",", ":"), allow_nan=False), flush=True)


def _grouped(
    runs: Sequence[RunResult], slo: Slo, key: Callable[[RequestResult], str]
) -> dict[str, dict[str, Any]]:
    names = sorted({key(result) for run in runs for result in run.results})
    return {
        name: summary(
            [RunResult([r for r in run.results if key(r) == name], run.seconds) for run in runs], slo
        )
        for name in names
    }


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)  # rich would take 80 columns for a file
    console.print(table)


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
