"""A client that costs little per token: raw HTTP over non-blocking sockets, in a process of its own.

    python -m benchmarks.front.client < load.json

It reads what the sockets hold, counts the events in it and notes the time; it parses nothing. So one core of clients
reads more tokens than one core of servers writes, and the client's own processor time is reported beside.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

_EVENT, _DONE, _END = b"data: {", b"[DONE]", b"0\r\n\r\n"
_OK, _HEAD_END = b"HTTP/1.1 200", b"\r\n\r\n"
_READ_BYTES = 1 << 16
#: A mark may lie across two reads; a whole one is not counted twice.
_CARRIED_BYTES = len(_EVENT) - 1


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to send to one server.

    Args:
        port: of the server, on this machine.
        path: the endpoint.
        headers: header lines of each request, one per request, without the length of its body.
        bodies: JSON of each request.
        due_s: when each is sent, in seconds from the start; None for `streams` clients that send the next one
            when an answer has ended.
        streams: connections of a closed loop.
        limit_s: requests that still run then count as failed.
    """

    port: int
    path: str
    headers: Sequence[str]
    bodies: Sequence[str]
    due_s: Sequence[float] | None = None
    streams: int = 1
    limit_s: float = 120.0


@dataclass(slots=True)
class Outcome:
    """What the client saw; times are seconds."""

    seconds: float = 0.0
    processor_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    """The times between reads that had events."""
    events: int = 0
    reads: int = 0
    failed: int = 0
    late_s: float = 0.0
    """The most that a request was sent after it was due."""


def run(load: Load) -> Outcome:
    """Send a load from a process of its own, and wait for all answers. Raises: subprocess.CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.front.client"],
        input=json.dumps(asdict(load)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


class _Connection:
    """One connection, with one request at a time."""

    __slots__ = ("carried", "done", "head", "last_at", "sent_at", "socket", "started")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.carried = self.head = b""
        self.sent_at = self.last_at = 0.0
        self.started = self.done = False


class _Client:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = deque(
            _request(load.path, *pair) for pair in zip(load.headers, load.bodies, strict=True)
        )
        self._due = deque(load.due_s or ())
        self._poll = select.epoll()
        self._busy: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Send everything and read all answers."""
        load, outcome = self._load, self._outcome
        connections = 0 if load.due_s is not None else min(load.streams, len(self._requests))
        self._idle = [self._connect() for _ in range(connections)]
        began, processor = time.perf_counter(), time.process_time()
        if load.due_s is None:
            while self._idle:
                self._send(self._idle.pop())
        while self._busy or self._requests:
            now = time.perf_counter() - began
            if now > load.limit_s:
                break
            self._send_due(now)
            wait_s = max(0.0, self._due[0] - now) if self._due else 1.0
            for number, _ in self._poll.poll(wait_s):
                if number in self._busy:
                    self._read(self._busy[number])
                else:  # the server closes a connection that is idle for long
                    self._forget(number)
        outcome.failed += len(self._busy) + len(self._requests)
        outcome.seconds = time.perf_counter() - began
        outcome.processor_s = time.process_time() - processor
        self._poll.close()
        return outcome

    def _connect(self) -> _Connection:
        connection = _Connection(self._load.port)
        self._poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _forget(self, number: int) -> None:
        self._poll.unregister(number)
        self._idle = [each for each in self._idle if each.socket.fileno() != number]

    def _send_due(self, now: float) -> None:
        while self._due and self._due[0] <= now:
            self._outcome.late_s = max(self._outcome.late_s, now - self._due.popleft())
            self._send(self._idle.pop() if self._idle else self._connect())

    def _send(self, connection: _Connection) -> None:
        connection.carried = connection.head = b""
        connection.started = connection.done = False
        connection.sent_at = time.perf_counter()
        self._busy[connection.socket.fileno()] = connection
        connection.socket.sendall(self._requests.popleft())

    def _read(self, connection: _Connection) -> None:
        outcome = self._outcome
        data = connection.socket.recv(_READ_BYTES)
        now = time.perf_counter()
        if not data:
            raise ConnectionError("The server closed a connection within an answer.")
        if _HEAD_END not in connection.head:
            connection.head += data
        data = connection.carried + data
        connection.carried = data[-_CARRIED_BYTES:]
        outcome.reads += 1
        if events := data.count(_EVENT):
            outcome.events += events
            if connection.started:
                outcome.itl_s.append(now - connection.last_at)
            else:
                outcome.ttft_s.append(now - connection.sent_at)
                connection.started = True
            connection.last_at = now
        connection.done = connection.done or _DONE in data
        is_refused = _HEAD_END in connection.head and not connection.head.startswith(_OK)
        if is_refused or (connection.done and data.endswith(_END)):
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        if not connection.started:
            self._outcome.failed += 1
        del self._busy[connection.socket.fileno()]
        if self._load.due_s is None and self._requests:
            self._send(connection)
        else:
            self._idle.append(connection)


def _request(path: str, headers: str, body: str) -> bytes:
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


if __name__ == "__main__":
    print(json.dumps(asdict(_Client(Load(**json.load(sys.stdin))).run())))
