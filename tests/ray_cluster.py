"""A real Ray cluster of one machine, with a dashboard, and `loragate deploy` and `loragate front` on it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from postgres_process import PostgresProcess, postgres_process
from server_process import LORAGATE, ServerProcess, gone, start

from benchmarks.harness.processes.process_guard import ProcessGuard
from server.config.process_environment import RAY_VARIABLES

OPERATOR = {"authorization": "Bearer demo-admin"}
RAY = str(Path(sys.executable).with_name("ray"))
_START_S = 120.0
FILE = """
{number}
data_dir = "{folder}"
host = "127.0.0.1"
generation = "{generation}"
[resources]
num_gpus = 0
num_cpus = 0.1
[server]
demo = true
kv_cache_memory_bytes = 67108864
max_loras = 2
restart_backoff_s = 0.1
shutdown_timeout = 60
depot = "file://{folder}/depot"
database_url = "{database_url}"
{more}
"""


@dataclass
class RayCluster:
    """The head, what was deployed last, and the fronts."""

    session: Path
    """Folder of Ray's own files: the command lines of its processes have it."""
    folder: Path
    address: str
    dashboard: str
    database: PostgresProcess
    fronts: list[ServerProcess] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "cluster.toml"

    def processes(self) -> list[psutil.Process]:
        """All of Ray's, with the servers. They have no parent: it would end all when one of them ends."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.session) in " ".join(process.cmdline()):
                    found |= {each.pid: each for each in (process, *process.children(recursive=True))}
        return list(found.values())

    def titled(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def servers(self) -> list[psutil.Process]:
        """The servers' processes, not their engines."""
        return [process for process in self.titled("server.cli") if "--data-dir" in process.cmdline()]

    def write(self, number: str, generation: str = "1", more: str = "") -> None:
        """The cluster's file: the line that says how many servers there are, and more lines of their settings."""
        url = f"postgresql+asyncpg://postgres@/postgres?host={self.database.folder}"
        text = FILE.format(
            number=number, folder=self.folder, generation=generation, more=more, database_url=url
        )
        self.file.write_text(text, encoding="utf-8")

    def deploy(self, *options: str) -> str:
        """Run `loragate deploy`; what it has changed."""
        command = [LORAGATE, "deploy", str(self.file), "--address", self.dashboard, "--json", *options]
        done = subprocess.run(
            command, env=environment(), cwd="/", capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.logs()}"
        return str(json.loads(done.stdout)["change"])

    def add_front(self) -> ServerProcess:
        """Start a front."""
        arguments = ("--address", self.address, "--log-format", "json", "--shutdown-timeout", "60")
        front = start(*arguments, data_dir=None, command="front")
        self.fronts.append(front)
        return front

    def status(self) -> list[dict[str, Any]]:
        """What `loragate cluster status` shows."""
        answer = httpx.get(f"{self.fronts[-1].url}/admin/v1/cluster", headers=OPERATOR, timeout=30)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def wait_for(self, ready: int, without: frozenset[str] = frozenset(), timeout_s: float = 180) -> set[str]:
        """Wait until so many servers are ready and no other is there; their ids, of which none is in `without`."""
        deadline, rows = time.monotonic() + timeout_s, []
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError, AssertionError):
                rows = self.status()
                ids = {row["id"] for row in rows if row["state"] == "ready"}
                if len(ids) == len(rows) == ready and not ids & without:
                    return ids
            time.sleep(0.3)
        raise AssertionError(f"not {ready} servers: {rows}\n{self.logs()}")

    def logs(self) -> str:
        """The ends of the servers' logs."""
        files = sorted(self.folder.glob("replica-*/server.log"))
        return "\n".join(f"{file}:\n{file.read_text()[-3000:]}" for file in files)


def environment() -> dict[str, str]:
    """Of loragate's and Ray's commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORAGATE_", "RAY_"))}
    return kept | RAY_VARIABLES


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ray_cluster(folder: Path, cpus: int = 4) -> Iterator[RayCluster]:
    """A Ray cluster without servers, on a PostgreSQL of its own."""
    port, dashboard = _free_port(), _free_port()
    session = Path(tempfile.mkdtemp(prefix="ray"))  # its sockets' paths must be short
    command = [
        *(RAY, "start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--dashboard-port", str(dashboard), "--temp-dir", str(session), "--num-cpus", str(cpus)),
        *("--object-store-memory", str(80 << 20), "--disable-usage-stats", "--include-log-monitor", "false"),
    ]
    with postgres_process() as database:
        head = subprocess.Popen(
            command, env=environment(), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        guard = ProcessGuard(head.pid)
        cluster = RayCluster(session, folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", database)
        try:
            assert head.wait(_START_S) == 0, "ray start has failed"
            _wait_for_dashboard(cluster)
            yield cluster
        finally:
            _stop(cluster)
            guard.dismiss()
            shutil.rmtree(session, ignore_errors=True)


def _wait_for_dashboard(cluster: RayCluster) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{cluster.dashboard}/api/serve/applications/", timeout=30).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError("Ray's dashboard does not answer")


def _stop(cluster: RayCluster) -> None:
    for front in cluster.fronts:
        if front.process.poll() is None:
            front.process.kill()
            front.process.wait()
        front.guard.dismiss()
    left = cluster.processes()
    for process in sorted(left, key=lambda process: process.pid):
        with suppress(psutil.Error):
            process.kill()
    assert gone([*left, *cluster.processes()])
