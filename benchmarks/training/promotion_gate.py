"""Worse versions are refused and better ones are promoted: trained here, evaluated and decided on a server.

    python -m benchmarks gate [--seeds 20] [--home DIR] [--url http://127.0.0.1:8000 --operator-key KEY]

One version serves. From it, each seed trains two: one for longer on the same chats, one on the same chats with each
other's answers. Both are evaluated on held-out chats on the serving engine, and promoted under one condition.
`wrong_decisions` counts better versions that are refused and worse ones that are promoted.
With `--home` the trained adapters are kept there and used again. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import demo
from benchmarks.harness.admin_client import AdapterAdmin
from benchmarks.harness.demo_server import DEMO_FLAGS, OPERATOR_KEY
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import scratch, start_ours
from benchmarks.training.versions import ADAPTER, train_better, train_first, train_worse

BOUNDS = {"wrong_decisions": ("<=", 0.0)}
CONDITION = "loss < @current and exact >= @current - 0.1"
_NAME = "gate"


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one version."""

    is_better: bool
    loss: float
    exact: float
    promoted: bool


def main(argv: Sequence[str]) -> int:
    """Train, evaluate and decide; 0 if every decision is right, else 1."""
    options = _parser().parse_args(argv)
    progress = ProgressReporter(quiet=options.quiet)
    with scratch() as folder:
        home = options.home or folder
        home.mkdir(parents=True, exist_ok=True)
        first = train_first(home, progress)
        seeds = range(1, options.seeds + 1)
        better = [train_better(first, home, seed, progress) for seed in seeds]
        worse = [train_worse(first, home, seed, progress) for seed in seeds]
        with _server(options, folder, progress) as url:
            current, decisions = asyncio.run(_decide(options, url, first, (better, worse), progress))
    figures = figures_of(decisions) | {"current_loss": current}
    return publish("gate", figures, BOUNDS, options.out, condition=CONDITION, turns=options.turns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, default=20, help="better and worse versions (default: %(default)s each)")
    add("--turns", type=int, default=200, help="held-out answers of each evaluation (default: %(default)s)")
    add("--home", type=Path, help="folder for the trained adapters (default: a temporary one)")
    add("--url", help="a server with the demo's tenants (default: start one)")
    add("--operator-key", default=OPERATOR_KEY, help="(default: the demo's key)")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


@contextlib.contextmanager
def _server(options: argparse.Namespace, folder: Path, progress: ProgressReporter) -> Iterator[str]:
    if options.url is not None:
        yield options.url
        return
    with start_ours(DEMO_FLAGS, folder / "server", demo=True) as server:
        progress.log(f"ready after {server.wait_ready():.1f} s")
        yield server.url


async def _decide(
    options: argparse.Namespace,
    url: str,
    first: Path,
    others: tuple[Sequence[Path], Sequence[Path]],
    progress: ProgressReporter,
) -> tuple[float, list[Decision]]:
    """The loss of the version that serves, and the decisions about better and worse versions, in turns."""
    chats = demo.ADAPTERS[ADAPTER].held_out.read_bytes()
    decisions: list[Decision] = []
    async with AdapterAdmin(url, options.operator_key, "acme", _NAME) as adapter:
        serving = await adapter.add(first)
        try:
            await adapter.promote(serving)
            current = await adapter.evaluate(serving, chats, turns=options.turns)
            for pair in zip(*others, strict=True):
                for is_better, folder in zip((True, False), pair, strict=True):
                    number = await adapter.add(folder)
                    found = await adapter.evaluate(number, chats, turns=options.turns)
                    promoted = await adapter.promote_if(number, CONDITION)
                    if promoted:
                        await adapter.promote(serving)
                    decisions.append(Decision(is_better, found["loss"], found["exact"], promoted))
                    progress.log(f"{folder.name}: loss {found['loss']:.4f}, promoted: {promoted}")
        finally:
            await adapter.remove()
    return float(current["loss"]), decisions


def figures_of(decisions: Sequence[Decision]) -> dict[str, float]:
    """The counts, and how far the losses of better and worse versions are apart."""
    better, worse = ([each for each in decisions if each.is_better is kind] for kind in (True, False))
    return {
        "wrong_decisions": sum(each.promoted is not each.is_better for each in decisions),
        "better_promoted": sum(each.promoted for each in better),
        "worse_refused": sum(not each.promoted for each in worse),
        "largest_better_loss": max(each.loss for each in better),
        "smallest_worse_loss": min(each.loss for each in worse),
        "smallest_better_exact": min(each.exact for each in better),
        "largest_worse_exact": max(each.exact for each in worse),
    }
