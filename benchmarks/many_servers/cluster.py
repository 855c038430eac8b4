"""What the front of a cluster costs, whether requests meet their adapters, and what Ray itself takes.

    python -m benchmarks cluster [--replicas 3] [--requests 600]

Starts `loragate serve --demo --replicas N` on a PostgreSQL of its own, with a model that costs nothing
(`benchmarks.front.executor`: a step lasts 15 ms), so that the rest is seen.

- `affinity_hit`: share of the requests whose adapter was in the memory of the server that answered, after a warm-up
  with as many requests. There are `--adapters` adapters of one popularity, and a server holds `--held` of them.
- `front_added_ttft_ms`: median time to the first token through the front, less that of the same server asked
  directly; one request at a time, the two in turn.
- `paced_stream_ratio`: time of streams through the front, divided by that of as many at the servers directly; the
  median of the rounds.
- `cluster_start_s`: until all servers are ready. `ray_gib`, `ray_replica_gib`: memory of Ray's own processes, shared
  pages once, and of its process beside each server.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.harness.processes.postgres_process import postgres_process
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import Bounds, publish
from benchmarks.harness.servers import ServerProcess, scratch
from benchmarks.many_servers.affinity import affinity_hit
from benchmarks.many_servers.front_streams import added_ttft_ms, paced_stream_ratio
from benchmarks.many_servers.ray_servers import RayMemory, ray_servers

#: By name, as vLLM wants it: importing it would import vLLM.
_EXECUTOR: Final = "benchmarks.front.executor.ModelFreeExecutor"
BOUNDS: Final[Bounds] = {
    "affinity_hit": (">=", 0.90),
    "front_added_ttft_ms": ("<=", 10.0),
    "paced_stream_ratio": ("<=", 1.02),
}


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound holds, else 1."""
    options = _parser().parse_args(argv)
    progress = ProgressReporter(quiet=options.quiet)
    engine = json.dumps({"distributed_executor_backend": _EXECUTOR})
    flags = ("--max-loras", "4", "--max-cpu-loras", str(options.held), "--engine-args", engine)
    with (
        scratch() as home,
        postgres_process() as database,
        ray_servers(database, home, options.replicas, flags) as (server, start_s),
    ):
        progress.log(f"{options.replicas} servers are ready after {start_s:.0f} s")
        memory = RayMemory.of(server)
        figures = uvloop.run(_measure(server, home, options, progress))
    figures |= {"cluster_start_s": round(start_s, 1)} | memory.figures()
    given = {name: getattr(options, name) for name in ("replicas", "adapters", "held", "requests", "streams")}
    return publish("cluster", figures, BOUNDS, options.out, flags=given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description="The front and Ray.")
    parser.add_argument("--replicas", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--adapters", type=int, default=24, help="(default: %(default)s)")
    parser.add_argument("--held", type=int, default=8, help="adapters per server (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=600, help="for affinity (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=100, help="requests for the TTFT (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=12, help="at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of streams (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    return parser


async def _measure(
    server: ServerProcess, home: Path, options: argparse.Namespace, progress: ProgressReporter
) -> dict[str, float]:
    added_ms = await added_ttft_ms(server.url, options.pairs)
    progress.log(f"the front adds {added_ms:.1f} ms")
    ratio = await paced_stream_ratio(server.url, options.streams, options.rounds)
    progress.log(f"streams take {ratio:.3f} times as long")
    hit = await affinity_hit(server.url, home, options.adapters, options.requests)
    progress.log(f"{hit:.1%} of the requests met their adapter")
    return {
        "affinity_hit": round(hit, 4),
        "front_added_ttft_ms": round(added_ms, 2),
        "paced_stream_ratio": round(ratio, 4),
    }
