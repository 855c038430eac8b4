"""Several demo servers on one PostgreSQL and one depot, and what a test asks of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from postgres_process import PostgresProcess, postgres_process
from server_process import ServerProcess, start

HELLO = [{"role": "user", "content": "Hello!"}]
KEY, OPERATOR = "demo-acme", "demo-admin"
#: States in which a server still has something to do for a version.
UNFINISHED = {"registered", "fetched", "verified", "draining"}
_SIZE = ("--kv-cache-memory-bytes", str(64 << 20), "--max-loras", "2", "--canary-min-answers", "20")

#: What a server that has died must leave to the others: a row each with what it is of, and what it is.
_OWNED_BY_THE_DEAD = """
WITH living AS (SELECT id FROM replicas WHERE seen_at > now() - interval '8 seconds')
SELECT 'version', tenant || '-' || adapter || '@' || number || ' ' || state FROM versions
WHERE state IN ('registered', 'fetched', 'verified') AND coalesce(owner NOT IN (SELECT id FROM living), true)
UNION ALL SELECT 'lease', tenant || ' ' || kind FROM leases WHERE replica NOT IN (SELECT id FROM living)
UNION ALL SELECT 'exchange', replica FROM lease_exchanges WHERE replica NOT IN (SELECT id FROM living)
"""
#: How long the database may say nothing.
_DATABASE_SILENT_S = 15


@dataclass
class Cluster:
    """The servers; every key works on all of them."""

    folder: Path
    database: PostgresProcess
    servers: list[ServerProcess] = field(default_factory=list)

    def launch(self) -> ServerProcess:
        """One more server, which is ready; the caller adds it to `servers`, or stops it."""
        home = self.folder / f"server-{time.monotonic_ns()}"
        depot = ("--demo", "--depot", f"file://{self.folder}/depot", "--host", "127.0.0.1")
        variables = {"LORAGATE_DATABASE_URL": self.database.url, "LORAGATE_PROVE_ON": "all"}
        server = start(*depot, *_SIZE, data_dir=home, variables=variables)
        server.wait_for("/ready", 200)
        return server

    def admin(self, server: ServerProcess, method: str, path: str, **more: Any) -> httpx.Response:
        """An operator's request."""
        headers = {"authorization": f"Bearer {OPERATOR}"} | more.pop("headers", {})
        return _sent(method, f"{server.url}/admin/v1{path}", headers=headers, **more)

    def ask(
        self, server: ServerProcess, model: str = "loragate-demo", key: str = KEY, **more: Any
    ) -> httpx.Response:
        """A chat, of acme's if no other key is given."""
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": model, "messages": HELLO, "max_tokens": 1} | more
        return _sent("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers)

    def add(self, server: ServerProcess, name: str, folder: Path, **more: Any) -> httpx.Response:
        """Add a version of acme's from a folder."""
        body = {"source": str(folder), "promote": True} | more
        return self.admin(server, "POST", f"/adapters/acme/{name}/versions", json=body)

    def version(self, server: ServerProcess, name: str, number: int = 1) -> dict[str, Any]:
        """A version of acme's, as this server shows it."""
        view = self.admin(server, "GET", f"/adapters/acme/{name}").json()
        return next(version for version in view["versions"] if version["number"] == number)

    def weights(self, server: ServerProcess, name: str) -> dict[str, float]:
        """How the traffic of acme's adapter is split: version → weight."""
        answer = self.admin(server, "GET", f"/adapters/acme/{name}")
        assert answer.status_code == 200, answer.text
        targets = answer.json()["alias"]["targets"]
        return {str(target["version"]): target["weight"] for target in targets}

    def unfinished(self, server: ServerProcess) -> list[dict[str, Any]]:
        """All versions for which a server still has something to do."""
        adapters = self.admin(server, "GET", "/adapters", params={"ended": True}).json()["data"]
        return [
            version for each in adapters for version in each["versions"] if version["state"] in UNFINISHED
        ]

    def owned_by_the_dead(self) -> list[list[str]]:
        """What belongs to no server that lives."""
        return self.database.query("postgres", _OWNED_BY_THE_DEAD)


def _sent(method: str, url: str, **more: Any) -> httpx.Response:
    """The answer; where others use the machine, a database can be silent for seconds, and clients try again then."""
    last_s = time.monotonic() + _DATABASE_SILENT_S
    while True:
        answer = httpx.request(method, url, timeout=120, **more)
        if "registry_unavailable" not in answer.text or time.monotonic() > last_s:
            return answer
        time.sleep(0.5)


@contextmanager
def running_cluster(folder: Path, count: int = 3) -> Iterator[Cluster]:
    """So many servers, which start at the same time on an empty database."""
    with postgres_process() as database, ThreadPoolExecutor(count) as pool:
        cluster = Cluster(folder, database)
        starts = [pool.submit(cluster.launch) for _ in range(count)]
        try:
            for one in starts:
                cluster.servers.append(one.result())
            yield cluster
        finally:
            for one in starts:
                if one.exception() is None and one.result() not in cluster.servers:
                    cluster.servers.append(one.result())
            for server in cluster.servers:
                if server.process.poll() is None:
                    server.stop()


def until(condition: Callable[[], bool], limit_s: float) -> float:
    """Wait until it holds; returns the seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.05)
    return time.monotonic() - began
