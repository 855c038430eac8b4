"""Which replica answers a request: loragate's placement and five others, simulated on a hundred replicas.

    python -m benchmarks placement [--policies loragate "plain hash"] [--seed 1] [--jobs 2] [--plots DIR]

2,000 adapters whose popularity follows Zipf's law, replicas that hold 32 adapters and compute with 8 at once (or 48
and 16), 70 and 85 % of all sequences busy. `hit` is the share of requests whose adapter was in memory where they
went, `wait` the time until they began, `served` the share that began before the simulation ended. Nothing is
measured: the figures are the same on every machine. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.environment import check_matplotlib
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import percentile, publish
from benchmarks.placement.plots import draw_placement
from benchmarks.placement.policies import POLICIES
from benchmarks.placement.simulation import Setup, Simulation

OURS = "loragate"
#: Suffix of the figures' names → what is simulated.
LOADS = {
    "": Setup(),
    "_85": Setup(load=0.85),
    "_16": Setup(slots=16, held=48),
    "_16_85": Setup(slots=16, held=48, load=0.85),
}
BOUNDS = {
    "placement_hit": (">=", 0.90),
    "placement_p99_wait_s": ("<=", 6.0),
    "placement_served": (">=", 0.99),
    "placement_served_85": (">=", 0.95),
    "placement_hit_16": (">=", 0.99),
    "placement_p99_wait_s_16": ("<=", 1.5),
}

#: "hit", "p99_wait_s", "served", "fetched_per_1000".
Figures = dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Simulate every policy under every load; 0 if the bounds of loragate's hold, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks placement", description="Placement.")
    add = parser.add_argument
    add(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME", help="some of them"
    )
    add("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    add("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    add("--plots", type=Path, metavar="DIR", help="also draw the figures into this folder")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args(argv)
    if options.plots:
        check_matplotlib()
    figures = measure(options.policies, options.seed, options.jobs, ProgressReporter(quiet=options.quiet))
    if options.plots:
        draw_placement(figures, options.plots)
    bounds = BOUNDS if OURS in figures else {}
    return publish("placement", flat(figures), bounds, options.out, seed=options.seed)


def measure(
    policies: Sequence[str], seed: int, jobs: int, progress: ProgressReporter
) -> dict[str, dict[str, Figures]]:
    """Policy → suffix of the load → its figures."""
    figures: dict[str, dict[str, Figures]] = {policy: {} for policy in policies}
    with ProcessPoolExecutor(jobs) as pool:
        running = {
            pool.submit(simulate, replace(setup, seed=seed), policy): (policy, suffix)
            for suffix, setup in LOADS.items()
            for policy in policies
        }
        for future in as_completed(running):
            policy, suffix = running[future]
            figures[policy][suffix] = future.result()
            values = ", ".join(f"{name} {value:.3g}" for name, value in future.result().items())
            progress.log(f"{policy}, {_title(LOADS[suffix])}: {values}")
    return figures


def simulate(setup: Setup, policy: str) -> Figures:
    """The figures of one policy under one load."""
    result = Simulation(setup, POLICIES[policy]).run()
    return {
        "hit": result.hit,
        "p99_wait_s": percentile(result.waits_s, 99) or 0.0,
        "served": result.served,
        "fetched_per_1000": 1000 * result.fetched / result.arrived,
    }


def flat(figures: Mapping[str, Mapping[str, Figures]]) -> dict[str, float]:
    """One level: `placement_hit_16` is loragate's, `random_hit_16` that of another policy."""
    return {
        f"{'placement' if policy == OURS else policy.lower().replace(' ', '_')}_{name}{suffix}": round(
            value, 4
        )
        for policy, loads in figures.items()
        for suffix in LOADS
        for name, value in loads[suffix].items()
    }


def _title(setup: Setup) -> str:
    return f"{setup.slots} slots, {setup.held} held, load {setup.load:.0%}"
