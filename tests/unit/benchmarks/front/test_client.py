"""The raw client counts events, times them and tells failures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.front.client import Load, Outcome, run

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ANSWER = (
    HEAD
    + chunk(b'data: {"a":1}\n\n')
    + chunk(b'data: {"b":2}\n\ndata: {"c":3}\n\n')
    + chunk(b"data: [DONE]\n\n")
)


class Server:
    """Answers every request with the same bytes, in pieces."""

    def __init__(self, answer: bytes, piece_bytes: int) -> None:
        self.requests: list[bytes] = []
        self._answer, self._piece_bytes = answer, piece_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while request := connection.recv(65536):
                self.requests.append(request)
                for begin in range(0, len(self._answer), self._piece_bytes):
                    connection.sendall(self._answer[begin : begin + self._piece_bytes])

    def close(self) -> None:
        """End the thread before its descriptor is free: the next server gets the same one."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()


@pytest.fixture(params=[1, 7, 1 << 16])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(ANSWER + b"0\r\n\r\n", request.param)
    yield made
    made.close()


def send(port: int, requests: int, **options: object) -> Outcome:
    headers = ["authorization: Bearer x\r\n"] * requests
    return run(Load(port, "/v1/chat/completions", headers, ['{"é":1}'] * requests, **options))  # type: ignore[arg-type]


def test_a_closed_loop_sends_each_request_and_counts_each_event_once(server: Server) -> None:
    outcome = send(server.port, 6, streams=2)
    assert (outcome.failed, outcome.events, len(outcome.ttft_s)) == (0, 18, 6)
    assert len(server.requests) == 6
    assert server.requests[0].endswith('content-length: 8\r\n\r\n{"é":1}'.encode())
    assert outcome.reads >= 6 and outcome.processor_s > 0


def test_an_open_loop_sends_when_requests_are_due(server: Server) -> None:
    outcome = send(server.port, 3, due_s=[0.0, 0.05, 0.1])
    assert outcome.failed == 0 and outcome.seconds >= 0.1 and outcome.events == 9


def test_a_refusal_counts_as_a_failure() -> None:
    server = Server(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}", 1 << 16)
    assert send(server.port, 2).failed == 2
    server.close()
