"""One tenant sends hostile inputs, one after another; the other tenants' short requests must not notice.

    python -m benchmarks hostile [--seconds 4] [--only NAME …]

For each input: the other tenants' requests alone, then beside the input, then the hostile clients leave (their
connections are closed without a word) and the processor time of the server shows whether their work ended. A demo
server is started on a free port of this machine; the hostile tenant has no limits of its own, only the server's
defaults. Prints a table with a row per input, then one JSON object.

Figures:

- `victim_worst_ratio`: the slowest answer beside an input to the slowest alone, the worst of all inputs and kinds of
  request; a kind that is at most 250 ms slower counts as 1.
- `victim_failures`: answers to the other tenants that are not a 200.
- `not_ended`: inputs whose work ran on for more than 1 s after their clients had left.
- `left_behind`: what the gauges of held resources show at the end, and server processes more than at the start.
- `server_errors`: answers of 5xx other than 503 to the hostile tenant.
- `rss_left_mib`: memory of the server at the end, less that after the first round of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.harness.admin_client import create_tenant
from benchmarks.harness.demo_server import DEMO_FLAGS, OPERATOR_KEY
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.held_resources import left_behind
from benchmarks.harness.memory import memory_bytes
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import ServerProcess, scratch, start_ours
from benchmarks.hostile.hostile_client import HostileClient
from benchmarks.hostile.hostile_input import HostileInput
from benchmarks.hostile.inputs import BY_NAME, INPUTS
from benchmarks.hostile.victims import VICTIMS, Latencies, measure

BOUNDS = {
    "victim_worst_ratio": ("<=", 2.0),
    "victim_failures": ("<=", 0),
    "not_ended": ("<=", 0),
    "left_behind": ("<=", 0),
    "server_errors": ("<=", 0),
}
_TENANT: Final = "hostile"
#: A victim may be slowed down by this much whatever the ratio.
_FREE_S: Final = 0.25
#: Time for the work of a client that has left to end, and then the time over which the processor is watched.
_END_WITHIN_S, _WATCH_S = 1.0, 0.6
#: More than this part of a core means that work goes on.
_IDLE_CORES: Final = 0.25
_SETTLE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class InputResult:
    """What one input did."""

    name: str
    alone: Latencies
    beside: Latencies
    answers: dict[str, int]
    cores_after: float
    """Cores in use by the server between 1.0 and 1.6 s after the clients had left."""
    rss_mib: float

    @property
    def has_ended(self) -> bool:
        """Whether the work ended with its clients."""
        return self.cores_after <= _IDLE_CORES

    def slowest(self) -> tuple[str, float, float]:
        """The kind of request that suffered most: its name, worst seconds alone and worst seconds beside."""
        kinds = [(v.name, self.alone.worst_s(v.name), self.beside.worst_s(v.name)) for v in VICTIMS]
        return max(kinds, key=lambda kind: (victim_ratio(kind[1], kind[2]), kind[2] - kind[1]))

    @property
    def ratio(self) -> float:
        """`victim_worst_ratio` of this input."""
        return victim_ratio(*self.slowest()[1:])

    def row(self) -> dict[str, Any]:
        """For the report."""
        name, alone_s, beside_s = self.slowest()
        return {
            "input": self.name,
            "slowest": name,
            "alone_ms": round(1000 * alone_s),
            "beside_ms": round(1000 * beside_s),
            "failures": dict(self.alone.failures + self.beside.failures),
            "answers": self.answers,
            "cores_after": round(self.cores_after, 2),
            "rss_mib": round(self.rss_mib),
        }


def victim_ratio(alone_s: float, beside_s: float) -> float:
    """How many times as long the slowest answer took; 1 where it took at most 250 ms longer."""
    return 1.0 if beside_s - alone_s <= _FREE_S else beside_s / max(alone_s, 1e-3)


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound holds, else 1."""
    options = _parser().parse_args(argv)
    chosen = _chosen(options.only)
    progress = ProgressReporter(quiet=options.quiet)
    flags = replace(DEMO_FLAGS, kv_cache_bytes=256 * 1024**2)
    with scratch() as home, start_ours(flags, home, demo=True) as server:
        progress.log(f"ready after {server.wait_ready():.1f} s; {len(chosen)} inputs")
        results, left, rss_left_mib = uvloop.run(_run(options, server, chosen, progress))
    _print_rows(results)
    figures = summarize(results) | {"left_behind": left, "rss_left_mib": rss_left_mib}
    rows = [result.row() for result in results]
    return publish("hostile", figures, BOUNDS, options.out, inputs=rows, flags={"seconds": options.seconds})


def summarize(results: Sequence[InputResult]) -> dict[str, float]:
    """The figures over all inputs."""
    answers = [(status, count) for result in results for status, count in result.answers.items()]
    return {
        "inputs": len(results),
        "victim_worst_ratio": max((result.ratio for result in results), default=1.0),
        "victim_worst_added_ms": max(
            (1000 * (result.slowest()[2] - result.slowest()[1]) for result in results), default=0.0
        ),
        "victim_failures": sum(
            result.alone.failures.total() + result.beside.failures.total() for result in results
        ),
        "not_ended": sum(not result.has_ended for result in results),
        "server_errors": sum(
            count for status, count in answers if status.startswith("5") and status != "503"
        ),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hostile",
        description="Hostile inputs of one tenant beside others' requests.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=4.0, help="time with each input (default: %(default)s)")
    add("--only", nargs="+", default=[], metavar="NAME", help="these inputs alone")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


def _chosen(names: Sequence[str]) -> list[HostileInput]:
    for name in names:
        if name not in BY_NAME:
            raise InvalidOption(f"--only {name}: there is no such input. Choose from {', '.join(BY_NAME)}.")
    return [BY_NAME[name] for name in names] or list(INPUTS)


async def _run(
    options: argparse.Namespace,
    server: ServerProcess,
    chosen: Sequence[HostileInput],
    progress: ProgressReporter,
) -> tuple[list[InputResult], float, float]:
    """The results, what is left behind, and MiB of memory more than at the start."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, limits=limits) as http:
        key = await create_tenant(http, OPERATOR_KEY, _TENANT, role="tenant_admin")
        await measure(http, options.seconds)  # warms up
        processes, rss_mib = len(server.processes()), _rss_mib(server)
        results = []
        for hostile in chosen:
            results.append(await _run_input(http, server, key, hostile, options.seconds))
            progress.log(f"{hostile.name}: {results[-1].row()}")
        await asyncio.sleep(_SETTLE_S)
        left = await left_behind(http) + max(0, len(server.processes()) - processes)
        return results, left, _rss_mib(server) - rss_mib


async def _run_input(
    http: httpx.AsyncClient, server: ServerProcess, key: str, hostile: HostileInput, seconds: float
) -> InputResult:
    with HostileClient(server.url, key, _TENANT, hostile) as client:
        await asyncio.to_thread(client.prepare)
        alone = await measure(http, seconds / 2)
        client.start()
        beside = await measure(http, seconds)
        # What starts later is a new worker in the place of one that was killed: it does not work for the input.
        worked = {process.pid for process in server.processes()}
        answers = await asyncio.to_thread(client.leave)
        await asyncio.sleep(_END_WITHIN_S)
        cores = await _cores_in_use(server, worked)
    return InputResult(hostile.name, alone, beside, answers, cores, _rss_mib(server))


async def _cores_in_use(server: ServerProcess, worked: Container[int]) -> float:
    """Mean number of cores that these processes of the server use; those that end meanwhile are not counted."""
    before = {process.pid: _cpu_s(process) for process in server.processes()}
    began_s = time.monotonic()
    await asyncio.sleep(_WATCH_S)
    after = {process.pid: _cpu_s(process) for process in server.processes() if process.pid in worked}
    used_s = sum(cpu_s - before.get(pid, 0.0) for pid, cpu_s in after.items())
    return used_s / (time.monotonic() - began_s)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _rss_mib(server: ServerProcess) -> float:
    return memory_bytes(server) / 1024**2


def _print_rows(results: Sequence[InputResult]) -> None:
    table = Table(title="the slowest kind of request", title_justify="left")
    for name in (
        "input",
        "request",
        "alone ms",
        "beside ms",
        "failures",
        "answers",
        "cores after",
        "RSS MiB",
    ):
        table.add_column(name, justify="left" if name in ("input", "request", "answers") else "right")
    for result in results:
        row = result.row()
        answers = " ".join(f"{status}×{count}" for status, count in row["answers"].items())
        failures = sum(row["failures"].values())
        table.add_row(
            row["input"], row["slowest"], str(row["alone_ms"]), str(row["beside_ms"]), str(failures), answers,
            f"{row['cores_after']:.2f}", str(row["rss_mib"]),
        )  # fmt: skip
    Console(width=132).print(table)
