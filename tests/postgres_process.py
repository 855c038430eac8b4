"""A real PostgreSQL server for tests, and a TCP proxy before it that can lose the connection."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.harness.processes import postgres_process as harness
from benchmarks.harness.processes.postgres_process import PostgresProcess

__all__ = ["PostgresProcess", "TcpProxy", "postgres_process", "tcp_proxy"]


@contextmanager
def postgres_process(password: str | None = None) -> Iterator[PostgresProcess]:
    """A server of one's own; skips the test where PostgreSQL is not installed, and fails it in CI."""
    if harness.postgres_binaries() is None:
        message = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with harness.postgres_process(password) as server:
        yield server


class TcpProxy:
    """Forwards a TCP port to a Unix socket until it is told to lose everything.

    `mode`: "forward"; "swallow" takes bytes and connections and passes nothing on, as a firewall that drops packets
    does after the handshake; "deaf" swallows only the answers; "refuse" resets all connections and every new one.
    """

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self.mode = "forward"
        self.unanswered = 0
        """Connections that found no PostgreSQL."""
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: str) -> None:
        """Change the mode; a connection that has lost bytes never works again."""
        self.mode = mode
        if mode == "refuse":
            self._reset_all()

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._listener.close()
        self._reset_all()

    def _reset_all(self) -> None:
        for open_socket in self._open:
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                self.unanswered += 1
                client.close()
                continue
            self._open += [client, server]
            for source, sink, losing in (
                (client, server, {"swallow"}),
                (server, client, {"swallow", "deaf"}),
            ):
                threading.Thread(target=self._pump, args=(source, sink, losing), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, losing: set[str]) -> None:
        swallowed = False
        with suppress(OSError):
            while data := source.recv(65536):
                swallowed = swallowed or self.mode in losing
                if not swallowed:
                    sink.sendall(data)
        if not swallowed:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def tcp_proxy(postgres: PostgresProcess) -> Iterator[TcpProxy]:
    """A proxy before this server."""
    proxy = TcpProxy(postgres.folder / ".s.PGSQL.5432")
    try:
        yield proxy
    finally:
        proxy.close()
