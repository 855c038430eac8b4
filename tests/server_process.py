"""A real server as a process: start it, talk to it, and look at what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.harness.processes.process_guard import ProcessGuard

START_TIMEOUT_S = 240
LORAGATE = str(Path(sys.executable).with_name("loragate"))


@dataclass
class ServerProcess:
    """One `loragate serve`; `stop` or `kill` it."""

    process: subprocess.Popen[str]
    data_dir: Path
    guard: ProcessGuard
    """Ends the server when the tests are killed."""
    lines: list[dict[str, object]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """Every process below the server."""
        return psutil.Process(self.pid).children(recursive=True)

    def child(self, title: str) -> psutil.Process:
        """The child whose process title contains `title`."""
        found = [p for p in self.children() if title in " ".join(p.cmdline())]
        assert found, [p.cmdline() for p in self.children()]
        return found[0]

    def wait_for(self, path: str, status: int, timeout_s: float = START_TIMEOUT_S) -> float:
        """Poll until `path` answers `status`; returns the seconds it took."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n" + self.tail())
            try:
                if httpx.get(self.url + path, timeout=5).status_code == status:
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{path} did not answer {status} within {timeout_s} s:\n" + self.tail())

    def tail(self) -> str:
        return "\n".join(self.raw[-60:])

    def events(self, event: str) -> list[dict[str, object]]:
        """Log lines with this event."""
        return [line for line in self.lines if line.get("event") == event]

    def event_of(self, request_id: str, timeout_s: float = 5) -> dict[str, object]:
        """The access record of a request; it is written when the request is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [line for line in self.events("request") if line.get("request_id") == request_id]
            if found:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"no record of {request_id}:\n" + self.tail())

    def serving_version(self, tenant: str, adapter: str) -> int:
        """The version that has all the traffic; other tests may have promoted one."""
        headers = {"authorization": "Bearer demo-admin"}
        url = f"{self.url}/admin/v1/adapters/{tenant}/{adapter}"
        view = httpx.get(url, headers=headers, timeout=30).raise_for_status().json()
        (target,) = view["alias"]["targets"]
        return int(target["version"])

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self.guard.dismiss()
        return code

    def check_stop(self, limit_s: float) -> None:
        """SIGTERM; the server must end cleanly, in time, without a traceback, and with all its processes."""
        below, said = self.children(), len(self.raw)
        began = time.monotonic()
        assert self.stop() == 0, self.tail()
        assert time.monotonic() - began < limit_s
        assert gone(below)
        assert "Traceback" not in "\n".join(self.raw[said:]), self.tail()


def start(*args: str, data_dir: Path, variables: Mapping[str, str] | None = None) -> ServerProcess:
    """Start a server on a free port and return once it listens; the engine may still be starting.

    `variables` are added to the environment. A file given with `--config` must choose the port itself.
    """
    # spans are sent at once, not every five seconds
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    environment |= {k: v for k, v in os.environ.items() if not k.startswith(("LORAGATE_", "VLLM_"))}
    port = [] if "--config" in args else ["--port", "0"]
    process = subprocess.Popen(
        [LORAGATE, "serve", *port, "--data-dir", str(data_dir), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | dict(variables or {}),
        cwd="/",
        start_new_session=True,
    )
    server = ServerProcess(process, data_dir, ProcessGuard(process.pid))
    listening = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.raw.append(line.rstrip())
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                server.lines.append(record)
                if record.get("event") == "listening":
                    server.url = str(record["url"])
                    listening.set()
        listening.set()

    threading.Thread(target=read, daemon=True).start()
    assert listening.wait(START_TIMEOUT_S) and server.url, server.tail()
    return server


def gone(processes: list[psutil.Process], timeout_s: float = 10) -> bool:
    """Whether all of these end within the time; zombies count as gone."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any(_alive(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
