"""Two or more servers under the same requests, in alternating rounds of one run.

All servers are up all the time, but only one is under load at a time, so that all see the same machine. The order
reverses every round. Ratios are taken within a round, and the median over the rounds is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.client import TenantClients
from benchmarks.harness.load_generator import RunLength, RunResult, generate_load
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import percentile
from benchmarks.harness.servers import LORAGATE
from benchmarks.harness.workload import Arrivals, Workload


@dataclass(frozen=True, slots=True)
class ComparisonConfig:
    """The load, the same for every server. Each round has other prompts, so that no prefix cache helps."""

    workload: Workload
    arrivals: Arrivals
    length: RunLength
    rounds: int = 1
    warm_up_s: float = 2.0


async def compare(
    servers: dict[str, TenantClients], config: ComparisonConfig, progress: ProgressReporter
) -> dict[str, list[RunResult]]:
    """Put the load on every server in every round. Returns: server → results, one per round."""
    runs: dict[str, list[RunResult]] = {name: [] for name in servers}

    async def run_round(name: str, number: int, length: RunLength) -> RunResult:
        workload = replace(config.workload, seed=config.workload.seed * 1000 + number)
        title = f"{name}, {'warm-up' if number < 0 else f'round {number + 1} of {config.rounds}'}"
        async with progress.bar(title, length) as on_result:
            return await generate_load(servers[name], workload, config.arrivals, length, on_result)

    for name in servers if config.warm_up_s > 0 else ():
        await run_round(name, -1, RunLength(config.warm_up_s))
    for number in range(config.rounds):
        for name in servers if number % 2 == 0 else reversed(servers):
            runs[name].append(await run_round(name, number, config.length))
    return runs


def ratios(runs: Mapping[str, Sequence[RunResult]], peer: str, prefix: str) -> dict[str, float]:
    """Ours divided by the peer's: `{prefix}_throughput`, `_ttft_p50`, `_ttft_p99`, `_itl_p50`, `_e2e_p50`.

    A figure that either server did not produce is left out.
    """
    figures: dict[str, Callable[[RunResult], float | None]] = {
        "throughput": lambda run: run.tokens_per_s,
        "ttft_p50": lambda run: percentile([r.ttft_s for r in run.results if r.ttft_s is not None], 50),
        "ttft_p99": lambda run: percentile([r.ttft_s for r in run.results if r.ttft_s is not None], 99),
        "itl_p50": lambda run: percentile([itl_s for r in run.results for itl_s in r.itl_s], 50),
        "e2e_p50": lambda run: percentile([r.e2e_s for r in run.results if r.error is None], 50),
    }
    found: dict[str, float] = {}
    for name, figure in figures.items():
        pairs = [
            (figure(ours), figure(theirs)) for ours, theirs in zip(runs[LORAGATE], runs[peer], strict=True)
        ]
        per_round = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        if per_round:
            found[f"{prefix}_{name}"] = round(statistics.median(per_round), 4)
    return found
