"""Two or more servers under the same requests, in turns: what one is compared with another, in one run.

All servers are up all the time, and only one is under load at a moment, so that all see the same machine. The
order turns around every round; ratios are taken within a round, and their median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.client import Clients
from benchmarks.harness.load_generator import Extent, Run, run
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import percentile
from benchmarks.harness.workload import Arrivals, Workload

GATEWAY = "loragate"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that takes part, under the name that reports use."""

    name: str
    clients: Clients


@dataclass(frozen=True, slots=True)
class Plan:
    """The same for every contender; each round has requests of its own, so that no prefix cache helps."""

    workload: Workload
    arrivals: Arrivals
    extent: Extent
    rounds: int = 1
    warm_up_s: float = 2.0


async def compete(contenders: Sequence[Contender], plan: Plan, bars: Bars) -> dict[str, list[Run]]:
    """The runs of every contender, round by round."""
    for contender in contenders if plan.warm_up_s > 0 else ():
        await _turn(contender, replace(plan, extent=Extent(plan.warm_up_s)), -1, bars)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for number in range(plan.rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            runs[contender.name].append(await _turn(contender, plan, number, bars))
    return runs


async def _turn(contender: Contender, plan: Plan, number: int, bars: Bars) -> Run:
    workload = replace(plan.workload, seed=plan.workload.seed * 1000 + number)
    title = f"{contender.name}, {'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}"
    async with bars.run(title, plan.extent.seconds, plan.extent.requests) as watch:
        return await run(contender.clients, workload, plan.arrivals, plan.extent, watch)


def ratios(runs: Mapping[str, Sequence[Run]], peer: str, prefix: str) -> dict[str, float]:
    """Ours over the peer's: `{prefix}_throughput`, `_ttft_p50`, `_ttft_p99`, `_itl_p50`, `_e2e_p50`.

    A figure that either side did not produce is left out.
    """
    figures: dict[str, Callable[[Run], float | None]] = {
        "throughput": lambda run: run.tokens_per_s,
        "ttft_p50": lambda run: percentile([s.ttft_s for s in run.samples if s.ttft_s is not None], 50),
        "ttft_p99": lambda run: percentile([s.ttft_s for s in run.samples if s.ttft_s is not None], 99),
        "itl_p50": lambda run: percentile([gap for s in run.samples for gap in s.gaps_s], 50),
        "e2e_p50": lambda run: percentile([s.e2e_s for s in run.samples if s.error is None], 50),
    }
    found: dict[str, float] = {}
    for name, figure in figures.items():
        pairs = [
            (figure(ours), figure(theirs)) for ours, theirs in zip(runs[GATEWAY], runs[peer], strict=True)
        ]
        per_round = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        if per_round:
            found[f"{prefix}_{name}"] = round(statistics.median(per_round), 4)
    return found
