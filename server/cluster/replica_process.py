"""One server of several on a machine: `loragate serve` as a child process, on a port and a data folder of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

import aiohttp

from server.cluster.replica_views import PATH
from server.config.process_environment import replica_environment
from server.errors import LoragateError

_POLL_S = 0.25
_REPORT_TIMEOUT_S = 2.0
#: After SIGTERM and `--shutdown-timeout` the server has this much time until it is killed.
STOP_GRACE_S = 20.0


class ReplicaFailed(LoragateError):
    """A server could not be started; the message names its log."""


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """How the servers of one cluster are started.

    Attributes:
        flags: of `loragate serve`, without host, port and data folder.
        data_dir: each server has a folder in it, which it keeps over restarts: usage may wait there.
        host: the address on which the servers listen, and where the fronts reach them; "": the machine's.
        start_timeout_s: how long a start may take.
        stop_timeout_s: how long running answers may take after SIGTERM.
    """

    flags: tuple[str, ...]
    data_dir: str
    host: str = "127.0.0.1"
    start_timeout_s: float = 1800.0
    stop_timeout_s: float = 30.0


@dataclass(slots=True)
class ReplicaProcess:
    """A running server."""

    options: ReplicaOptions
    url: str
    folder: Path
    process: asyncio.subprocess.Process
    _token: str = field(repr=False)
    _lock: IO[str] = field(repr=False)
    _http: aiohttp.ClientSession = field(repr=False)

    @classmethod
    async def start(cls, options: ReplicaOptions, name: str) -> ReplicaProcess:
        """Start a server with this name in its log, and wait until it accepts requests. Raises: ReplicaFailed."""
        folder, lock = _own_folder(Path(options.data_dir))
        port, token = _free_port(options.host), secrets.token_hex(16)
        own = ("--host", options.host, "--port", str(port), "--data-dir", str(folder))
        with _log(folder) as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server.cli", "serve", *options.flags, *own),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=replica_environment(token, name),
            )
        http = aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"})
        replica = cls(options, f"http://{options.host}:{port}", folder, process, token, lock, http)
        try:
            await replica._wait_ready()
        except BaseException:  # also when the start is cancelled, no server may be left behind
            await replica.stop()
            raise
        return replica

    async def report(self) -> dict[str, Any]:
        """A `replica_views.ReplicaReport` as JSON. Raises: aiohttp.ClientError, TimeoutError."""
        timeout = aiohttp.ClientTimeout(_REPORT_TIMEOUT_S)
        async with self._http.get(self.url + PATH, timeout=timeout) as answer:
            answer.raise_for_status()
            return dict(await answer.json())

    async def wait(self) -> int:
        """Return when the process has ended: its exit code."""
        return await self.process.wait()

    async def stop(self) -> None:
        """Let running answers end, and end the process."""
        await self._http.close()
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.wait(), self.options.stop_timeout_s + STOP_GRACE_S)
            except TimeoutError:
                self.process.kill()
                await self.wait()
        self._lock.close()

    async def _wait_ready(self) -> None:
        async with asyncio.timeout(self.options.start_timeout_s):
            while self.process.returncode is None:
                with suppress(aiohttp.ClientError):
                    async with self._http.get(f"{self.url}/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(_POLL_S)
        raise ReplicaFailed(
            f"A server of the cluster ended with exit code {self.process.returncode} while it started; its log is "
            f"{self.folder / 'server.log'}."
        )


def serve_flags(given: dict[str, Any]) -> tuple[str, ...]:
    """The command line for these settings, as `loragate serve` parses it."""
    flags: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif isinstance(value, dict | list):
            flags += [flag, json.dumps(value)]
        elif value is not False:
            flags += [flag, str(value)]
    return tuple(flags)


def _own_folder(data_dir: Path) -> tuple[Path, IO[str]]:
    """The first folder that no living server has, and the lock that keeps it."""
    for number in count():
        folder = data_dir / f"replica-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return folder, lock
    raise AssertionError("count() has no end")


def _free_port(host: str) -> int:
    """A port that nobody uses now; if another process takes it first, the start fails and is repeated."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _log(folder: Path) -> Iterator[IO[bytes]]:
    with (folder / "server.log").open("ab") as log:
        yield log
