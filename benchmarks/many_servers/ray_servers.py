"""`loragate serve --replicas`, and the memory that Ray's own processes take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.harness.demo_server import DEMO_FLAGS, OPERATOR_KEY
from benchmarks.harness.processes.postgres_process import PostgresProcess
from benchmarks.harness.servers import ServerFailed, ServerProcess, start_ours

OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
_START_S = 600.0
_POLL_S = 0.25


@contextmanager
def ray_servers(
    database: PostgresProcess, home: Path, replicas: int, more: Sequence[str]
) -> Iterator[tuple[ServerProcess, float]]:
    """A front with its servers, and the seconds until all were ready. Raises: ServerFailed.

    Args:
        more: flags of the servers.
    """
    size = ("--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "32")
    flags = ("--replicas", str(replicas), "--database-url", database.url, *size, *more)
    with start_bare(home / "cluster", flags) as server:
        deadline = server.began_s + _START_S
        while time.perf_counter() < deadline:
            if server.process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                rows = listed(server.url)
                if [row["state"] for row in rows] == ["ready"] * replicas:
                    yield server, time.perf_counter() - server.began_s
                    return
            time.sleep(_POLL_S)
        raise ServerFailed(f"{replicas} servers were not ready in time:\n{server.tail()}")


def start_bare(home: Path, more: Sequence[str]) -> ServerProcess:
    """The demo with these flags only."""
    return start_ours(DEMO_FLAGS, home, demo=True, more=more)


def listed(url: str) -> list[dict[str, Any]]:
    """The servers behind a front; none while it starts."""
    answer = httpx.get(f"{url}/admin/v1/cluster", headers=OPERATOR, timeout=30)
    return list(answer.json()["data"]) if answer.status_code == 200 else []


@dataclass(frozen=True, slots=True)
class RayMemory:
    """Bytes of Ray's own processes, shared pages once.

    Attributes:
        cluster: head, daemons, Serve's controller, unused workers; the front's process is loragate's.
        replicas: of the processes beside each server.
    """

    cluster: int
    replicas: tuple[int, ...]

    @classmethod
    def of(cls, server: ServerProcess) -> RayMemory:
        """Of a front with its servers, now."""
        cluster, replicas = 0, []
        engines = {
            child.pid for process in server.processes() if _is_server(process) for child in _all(process)
        }
        for process in server.processes()[1:]:
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid in engines:
                    continue
                used = process.memory_full_info().pss
                if "ServeReplica" in " ".join(process.cmdline()):
                    replicas.append(used)
                else:
                    cluster += used
        return cls(cluster, tuple(replicas))

    def figures(self) -> dict[str, float]:
        """In GiB."""
        each = sum(self.replicas) / max(1, len(self.replicas))
        return {"ray_gib": round(self.cluster / 2**30, 3), "ray_replica_gib": round(each / 2**30, 3)}


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "server.cli" in process.cmdline()
    return False


def _all(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []
