"""Several demo servers on one PostgreSQL and one depot."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.demo_server import DEMO_FLAGS
from benchmarks.harness.processes.postgres_process import PostgresProcess
from benchmarks.harness.servers import ServerProcess, start_ours

#: Small, so that several servers fit on one machine.
_FLAGS = replace(DEMO_FLAGS, kv_cache_bytes=64 << 20, max_loras=2, max_num_seqs=32)


@contextmanager
def shared_servers(database: PostgresProcess, home: Path, count: int) -> Iterator[list[ServerProcess]]:
    """Servers that are ready, for the length of the block. Raises: ServerFailed."""
    more = ("--database-url", database.url, "--depot", f"file://{home}/depot")
    servers: list[ServerProcess] = []
    with ExitStack() as stack:
        for number in range(count):
            servers.append(
                stack.enter_context(start_ours(_FLAGS, home / f"server{number}", demo=True, more=more))
            )
            if number == 0:
                servers[0].wait_ready()  # it makes the tables and the demo's tenants
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(ServerProcess.wait_ready, servers))
        yield servers
