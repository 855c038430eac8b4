"""Samples the memory of servers while a benchmark runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Self

import psutil

from benchmarks.harness.servers import ServerProcess

_INTERVAL_S = 0.5


class MemorySampler:
    """Samples the memory of servers in a thread inside its `with` block.

    `rss_bytes` has (seconds since the start, sum of RSS over all processes) per server. RSS counts a page once per
    process that maps it; `pss_bytes`, taken at the end of the block, counts it once in all.
    """

    def __init__(self, servers: Mapping[str, ServerProcess]) -> None:
        self.rss_bytes: dict[str, list[tuple[float, int]]] = {name: [] for name in servers}
        self.pss_bytes: dict[str, int] = {}
        self._servers = servers
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def peak_bytes(self, name: str) -> int:
        """The largest RSS of a server; 0 without samples."""
        return max((rss for _, rss in self.rss_bytes[name]), default=0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for name, server in self._servers.items():
            self.pss_bytes[name] = memory_bytes(server, shared_once=True)

    def _sample(self) -> None:
        began_s = time.monotonic()
        while not self._stopped.wait(_INTERVAL_S):
            for name, server in self._servers.items():
                self.rss_bytes[name].append((time.monotonic() - began_s, memory_bytes(server)))


def memory_bytes(server: ServerProcess, *, shared_once: bool = False) -> int:
    """The memory of all processes of a server; `shared_once` counts a shared page once (slower)."""
    total = 0
    for process in server.processes():
        with contextlib.suppress(psutil.Error, OSError):
            total += process.memory_full_info().pss if shared_once else process.memory_info().rss
    return total
