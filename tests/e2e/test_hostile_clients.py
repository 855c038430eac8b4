"""Clients that are slow, huge, many, or gone: the server stays up, quick and clean."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from server_process import ServerProcess

pytestmark = pytest.mark.alone  # it measures times

HELLO = [{"role": "user", "content": "Hello!"}]
HEADERS = {"authorization": "Bearer demo-acme"}
#: Of the session's server (`--read-timeout-s` in conftest.py).
READ_TIMEOUT_S = 5


def connect(server: ServerProcess, timeout_s: float = 30) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def gauge(server: ServerProcess, name: str, labels: str = "") -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*{labels}[^}}]*\}})? ([0-9.e+-]+)$", text, re.M)
    return sum(map(float, found))


def until_closed(connection: socket.socket, timeout_s: float) -> tuple[float, bytes]:
    """Seconds until the server hung up, and what it said."""
    began, said = time.monotonic(), b""
    connection.settimeout(timeout_s)
    while True:
        try:
            part = connection.recv(4096)
        except ConnectionResetError:
            part = b""
        if not part:
            return time.monotonic() - began, said
        said += part


_BODY_TO_COME = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer demo-acme\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
)


def _dawdle(server: ServerProcess, first: bytes, drip: bytes) -> tuple[float, bytes]:
    """Say `first`, then `drip` four times a second; how long until the server hung up, and what it said."""
    began, said = time.monotonic(), b""
    with connect(server, timeout_s=0.25) as connection:
        try:
            connection.sendall(first)
            while time.monotonic() - began < READ_TIMEOUT_S + 15:
                if drip:
                    connection.sendall(drip)
                try:
                    part = connection.recv(4096)
                except TimeoutError:
                    continue
                if not part:
                    break
                said += part
        except (BrokenPipeError, ConnectionResetError):
            pass
    return time.monotonic() - began, said


def test_slow_clients_are_not_waited_for(server: ServerProcess) -> None:
    """All at once: silence, half a head, a header now and then (slow-loris), a body in drops."""
    slow = {
        "silent": (b"", b""),
        "half a head": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: 1", b""),
        "loris": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
        "body": (_BODY_TO_COME, b""),
        "body in drops": (_BODY_TO_COME, b" "),
    }
    with ThreadPoolExecutor(len(slow)) as pool:
        found = dict(zip(slow, pool.map(lambda says: _dawdle(server, *says), slow.values()), strict=True))
    for name, (waited_s, said) in found.items():
        assert READ_TIMEOUT_S - 1 < waited_s < READ_TIMEOUT_S + 10, name
        if name.startswith("body"):
            assert b" 408 " in said.splitlines()[0] and b"body_too_slow" in said, name
        else:
            assert said == b"", name


def test_headers_without_end_are_cut_off(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        said = b""
        try:
            for _ in range(2000):
                connection.sendall(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            _, said = until_closed(connection, 10)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed while we were still talking
        assert said == b"" or b" 431 " in said.splitlines()[0]


def test_a_huge_body_is_refused_from_its_length_alone(server: ServerProcess) -> None:
    rss = psutil.Process(server.pid).memory_info().rss
    with connect(server) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer demo-acme\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
        )
        waited_s, said = until_closed(connection, READ_TIMEOUT_S)
    assert b" 413 " in said.splitlines()[0] and waited_s < READ_TIMEOUT_S
    assert psutil.Process(server.pid).memory_info().rss - rss < 8 << 20


def test_two_thousand_idle_connections(server: ServerProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    process = psutil.Process(server.pid)
    before_fds, before_rss = process.num_fds(), process.memory_info().rss
    idle: list[socket.socket] = []
    try:
        for _ in range(2000):
            connection = connect(server)
            idle.append(connection)
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert process.num_fds() - before_fds >= 1900
        began = time.monotonic()
        body = {"model": "acme-support", "messages": HELLO, "max_tokens": 8}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=60)
        assert answer.status_code == 200
        answered_s, rss = time.monotonic() - began, process.memory_info().rss
    finally:
        for connection in idle:
            connection.close()
    deadline = time.monotonic() + 10
    while process.num_fds() > before_fds + 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    per_connection = (rss - before_rss) / len(idle)
    print(f"2000 idle connections: {per_connection / 1024:.1f} KiB each, a request took {answered_s:.2f} s")
    assert process.num_fds() <= before_fds + 20
    assert answered_s < 10 and per_connection < 64 * 1024


async def _open_and_drop(url: str, count: int, at_once: int) -> int:
    """Start streams and leave each after its first events; returns how many had begun."""
    begun = 0
    turns = asyncio.Semaphore(at_once)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        nonlocal begun
        body: dict[str, Any] = {
            "model": "acme-support" if number % 2 else "loragate-demo",
            "messages": HELLO,
            "stream": True,
            "max_tokens": 400,
            "ignore_eos": True,
        }
        async with turns, client.stream("POST", "/v1/chat/completions", json=body) as stream:
            assert stream.status_code == 200, await stream.aread()
            async for line in stream.aiter_lines():
                if line.startswith("data: ") and json.loads(line[6:])["choices"]:
                    begun += 1
                    break

    async with httpx.AsyncClient(
        base_url=url, headers=HEADERS, timeout=120, limits=httpx.Limits(max_keepalive_connections=0)
    ) as client:
        await asyncio.gather(*(one(client, number) for number in range(count)))
    return begun


def _state(server: ServerProcess) -> dict[str, float]:
    """All that a request may leave behind, but for memory."""
    names = {
        "in_flight": "loragate_requests_in_flight",
        "running": "loragate_requests_running",
        "waiting": "loragate_requests_waiting",
        "kv_blocks": "loragate_kv_used_blocks",
        "held": "loragate_adapters_held",
        "tasks": "loragate_tasks",
    }
    return {what: gauge(server, name) for what, name in names.items()} | {"fds": _fds(server)}


def _fds(server: ServerProcess) -> float:
    """Open descriptors but those of the database: SQLite defers closing them while others hold locks, and uses them
    again, so their number only settles at what the pool can have."""
    process = psutil.Process(server.pid)
    return process.num_fds() - sum("loragate.db" in file.path for file in process.open_files())


def _check_dropped_streams(server: ServerProcess, count: int, rss_bound: float) -> None:
    asyncio.run(_open_and_drop(server.url, 64, 16))  # what is made on first use is made
    time.sleep(1)
    before, rss_before = _state(server), psutil.Process(server.pid).memory_info().rss
    began = time.monotonic()
    begun = asyncio.run(_open_and_drop(server.url, count, 16))
    took_s = time.monotonic() - began
    deadline = time.monotonic() + 15
    while (after := _state(server)) and time.monotonic() < deadline:
        if all(after[what] <= before[what] + (5 if what in ("tasks", "fds") else 0) for what in before):
            break
        time.sleep(0.25)
    rss_grown = psutil.Process(server.pid).memory_info().rss - rss_before
    print(
        f"{begun} streams opened and dropped in {took_s:.0f} s; before {before}, after {after}; "
        f"memory grew by {rss_grown / 2**20:.1f} MiB of {rss_before / 2**20:.0f}"
    )
    assert begun == count
    assert (
        after["in_flight"] == after["running"] == after["waiting"] == after["kv_blocks"] == after["held"] == 0
    )
    assert after["tasks"] <= before["tasks"] + 5 and after["fds"] <= before["fds"] + 5
    assert rss_grown < rss_bound * rss_before


def test_dropped_streams_leave_nothing_behind(server: ServerProcess) -> None:
    _check_dropped_streams(server, 150, rss_bound=0.03)


@pytest.mark.long
def test_a_thousand_dropped_streams_leave_nothing_behind(server: ServerProcess) -> None:
    _check_dropped_streams(server, 1000, rss_bound=0.03)
