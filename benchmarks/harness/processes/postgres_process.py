"""A PostgreSQL server of one's own, for servers that share a registry."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.harness.errors import BenchmarkFailed

_START_TIMEOUT_S = 30


def postgres_binaries() -> Path | None:
    """The folder of the newest of Debian's PostgreSQL servers, or of the one on PATH; None without any."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4].split(".")[0])
    )
    on_path = shutil.which("postgres")
    return found[-1].parent if found else (Path(on_path).parent if on_path else None)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: no server outlives a killed parent


class PostgresProcess:
    """A PostgreSQL server on a Unix socket in `folder`; user `postgres`, who needs a password only if one is set.

    Args:
        binaries: the folder of `initdb`, `postgres`, `psql` and the others.
        folder: an empty one, with a short name: a socket's path has at most 107 characters.
        password: of the user `postgres`.
        settings: of the server, such as `{"track_functions": "pl"}`.
    """

    def __init__(
        self,
        binaries: Path,
        folder: Path,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._binaries = binaries
        self.folder = folder
        self._settings = dict(settings or {})
        self._user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        if self._user:
            shutil.chown(folder, self._user, self._user)
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        self._run([*initdb, *self._authentication(password)])
        self.start()

    def _authentication(self, password: str | None) -> list[object]:
        if password is None:
            return ["-A", "trust"]
        secret = self.folder / "password"
        secret.write_text(password, encoding="utf-8")
        if self._user:
            shutil.chown(secret, self._user, self._user)
        return ["-A", "scram-sha-256", "--pwfile", secret]

    @property
    def url(self) -> str:
        """Of the database `postgres`, over the Unix socket."""
        return f"postgresql+asyncpg://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises: BenchmarkFailed: it does not, with its log."""
        flags = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "jit": "off",
            "max_connections": "200",
        } | self._settings
        options = [part for key, value in flags.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [self._binaries / "postgres", "-D", self.folder / "data", *options],
                user=self._user,
                group=self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        probe = [str(self._binaries / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(probe, check=False).returncode:  # noqa: S603
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once; its connections end."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP to it and its children: connections stay open, and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def create(self, database: str) -> str:
        """Create an empty database; returns its URL over the Unix socket."""
        self._run([self._binaries / "createdb", "-h", self.folder, "-U", "postgres", database])
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def query(self, database: str, sql: str) -> list[list[str]]:
        """The rows of a query, as text."""
        psql = [str(self._binaries / "psql"), "-h", str(self.folder), "-U", "postgres", "-d", database]
        psql += ["-AtF", "\t", "-c", sql]
        done = subprocess.run(psql, check=True, capture_output=True, text=True, cwd="/", timeout=60)  # noqa: S603
        return [line.split("\t") for line in done.stdout.splitlines()]

    def _signal_all(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self, command: list[object]) -> None:
        subprocess.run(  # noqa: S603
            [str(part) for part in command],
            check=True,
            user=self._user,
            group=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def postgres_process(
    password: str | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresProcess]:
    """A server in a temporary folder, for the length of the block. Raises: BenchmarkFailed: it is not installed."""
    binaries = postgres_binaries()
    if binaries is None:
        raise BenchmarkFailed("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="lg-pg-"))
    server = PostgresProcess(binaries, folder, password, settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.thaw()
            server.stop()
        shutil.rmtree(folder)
