"""Heads and bodies have a time and a size, on a real socket under uvicorn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from server.api.errors import error_response
from server.api.middleware.request_middleware import RequestMiddleware
from server.app.http_protocol import MAX_HEAD_BYTES, bounded
from server.errors import LoragateError

TIMEOUT_S = 0.3
SLACK_S = 5.0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body's length, as our routes read it."""
    try:
        body = await Request(scope, receive).body()
        response: Any = PlainTextResponse(str(len(body)))
    except LoragateError as error:
        response = error_response(error)
    await response(scope, receive, send)


@asynccontextmanager
async def serving(route: Any = echo) -> AsyncIterator[int]:
    app = RequestMiddleware(route, max_body_bytes=10_000, read_timeout_s=TIMEOUT_S)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            http=bounded(TIMEOUT_S),
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=30,
        )
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await task


async def talk(port: int, first: bytes, drip: bytes = b"") -> tuple[float, bytes]:
    """Say `first`, then `drip` again and again; how long until the other end hung up, and what it said."""
    began, said = time.monotonic(), b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(first)
        while time.monotonic() - began < TIMEOUT_S + SLACK_S:
            if drip:
                writer.write(drip)
            try:
                part = await asyncio.wait_for(reader.read(4096), 0.05)
            except TimeoutError:
                continue
            if not part:
                break
            said += part
    except ConnectionError:
        pass
    finally:
        writer.close()
    return time.monotonic() - began, said


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def test_a_head_that_does_not_come_ends_the_connection() -> None:
    async with serving() as port:
        slow = [talk(port, b""), talk(port, HEAD), talk(port, HEAD, b"X-A: b\r\n")]
        for waited_s, said in await asyncio.gather(*slow):
            assert TIMEOUT_S * 0.8 < waited_s < TIMEOUT_S + SLACK_S and said == b""


async def test_a_body_that_does_not_come_is_answered_and_ends_the_connection() -> None:
    async with serving() as port:
        head = HEAD + b"Content-Length: 500\r\n\r\n"
        for waited_s, said in await asyncio.gather(talk(port, head + b"{"), talk(port, head, b" ")):
            assert said.startswith(b"HTTP/1.1 408 ") and b"body_too_slow" in said
            assert TIMEOUT_S * 0.8 < waited_s < TIMEOUT_S + SLACK_S


async def test_a_body_too_large_ends_the_connection_before_it_is_sent() -> None:
    async with serving() as port:
        waited_s, said = await talk(port, HEAD + b"Content-Length: 99999999999\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ") and waited_s < TIMEOUT_S + 1


async def test_a_head_without_end_is_cut_off() -> None:
    async with serving() as port:
        _, said = await talk(port, HEAD, b"X-Filler: " + b"a" * (MAX_HEAD_BYTES // 4) + b"\r\n")
        assert said == b"" or said.startswith(b"HTTP/1.1 431 ")


def _refused(said: bytes) -> dict[str, Any]:
    head, _, body = said.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0].startswith(b"http/1.1 431 ") and b"connection: close" in lines
    assert any(line.startswith(b"x-request-id: ") for line in lines)
    assert f"content-length: {len(body)}".encode() in lines
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["code"] == "head_too_large" and error["type"] == "invalid_request_error"
    assert str(MAX_HEAD_BYTES) in error["message"]
    return error


def _padded(size_bytes: int, start: bytes = HEAD) -> bytes:
    """A whole head, of which request line and headers without their separators have about this size."""
    return start + b"X-Filler: " + b"a" * (size_bytes - len(start) - 20) + b"\r\n\r\n"


LARGE = 2 * MAX_HEAD_BYTES
LARGE_HEADS = {
    "one header": _padded(LARGE),
    "just above": _padded(MAX_HEAD_BYTES + 100),
    "many headers": HEAD + b"".join(b"X-%d: b\r\n" % n for n in range(LARGE // 8)) + b"\r\n",
    "a long URL": b"GET /?" + b"a" * LARGE + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.0": _padded(LARGE, b"GET / HTTP/1.0\r\n"),
    "a websocket": _padded(LARGE, HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "without end": _padded(LARGE)[:-4],
    "a URL without end": b"GET /?" + b"a" * LARGE,
    "much more": _padded(32 * MAX_HEAD_BYTES),
}


@pytest.mark.parametrize("name", LARGE_HEADS)
@pytest.mark.parametrize("parts", [1, 40])
async def test_a_large_head_is_answered_whole_or_in_parts(name: str, parts: int) -> None:
    reached = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)
        await echo(scope, receive, send)

    sent = LARGE_HEADS[name]
    size = -(-len(sent) // parts)
    async with serving(route) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await asyncio.sleep(0.001)
        _refused(await asyncio.wait_for(reader.read(), 5))
        writer.close()
    assert not reached


async def test_a_head_within_the_limit_is_served_whole_or_in_parts() -> None:
    sent = _padded(MAX_HEAD_BYTES - 100)
    async with serving() as port:
        for parts in (1, 40):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            size = -(-len(sent) // parts)
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                await asyncio.sleep(0.001)
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_bodies_and_earlier_requests_do_not_count_for_a_head() -> None:
    """Requests in one write, whose bodies and heads together are above the limit."""
    one = _padded(MAX_HEAD_BYTES // 2)[:-2] + b"Content-Length: 9000\r\n\r\n" + b"b" * 9000
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(one * 4 + HEAD)
        for _ in range(4):
            said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert said.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(4) == b"9000"
        writer.write(b"Content-Length: 0\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_large_head_after_another_request_on_the_connection() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert said.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(1) == b"0"
        writer.write(_padded(LARGE))
        _refused(await asyncio.wait_for(reader.read(), 5))
        writer.close()


async def test_a_trailer_without_end_ends_the_connection() -> None:
    """A trailer's fields are kept like headers; the route is told that the client has left."""
    told = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            told.append(message)
        told.append(message)

    async with serving(route) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        writer.write(b"X-Filler: " + b"a" * LARGE + b"\r\nX: 1\r\n\r\n")
        _refused(await asyncio.wait_for(reader.read(), 5))
        writer.close()
    assert told[-1]["type"] == "http.disconnect"


async def test_what_is_not_http_gets_our_error() -> None:
    async with serving() as port:
        _, said = await talk(port, b"\x16\x03\x01 hello\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ") and json.loads(said.partition(b"\r\n\r\n")[2])["error"] == {
        "message": "Invalid HTTP request received.",
        "type": "invalid_request_error",
        "param": None,
        "code": "bad_request",
    }


async def test_nothing_is_written_into_a_running_answer() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(stream) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"part"), 5)
        writer.write(_padded(LARGE))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_who_keeps_to_it_is_served_again_and_again_on_one_connection() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD + b"Content-Length: 3\r\n\r\nabc")
            said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert said.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(1) == b"3"
            await asyncio.sleep(TIMEOUT_S * 0.5)  # idle between two requests: keep-alive's time, not a head's
        await asyncio.sleep(TIMEOUT_S * 1.5)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_long_answer_is_no_slow_request() -> None:
    """The time is the client's for asking, not ours for answering."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await asyncio.sleep(TIMEOUT_S * 2)
        await PlainTextResponse("done")(scope, receive, send)

    async with serving(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
        writer.close()


BODY_HEAD = {"type": "http.response.start", "status": 200, "headers": []}


async def test_parts_are_written_at_once_between_those_that_are_sent() -> None:
    seen: list[bool] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        parts = scope["state"]["body_parts"]
        seen.append(parts.is_ready())
        await send(BODY_HEAD)
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        seen.append(parts.is_ready())
        parts.write(b"two ")
        await send({"type": "http.response.body", "body": b"three", "more_body": False})
        seen.append(parts.is_ready())

    async with serving(stream) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # a connection serves one request after another
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            said = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
            assert said.endswith(b"\r\n\r\n4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n")
        writer.close()
    assert seen == [False, True, False] * 2


async def test_no_part_is_written_for_a_client_that_does_not_read_or_has_left() -> None:
    written: list[int] = []
    left = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        parts = scope["state"]["body_parts"]
        await send(BODY_HEAD)
        while parts.is_ready() and len(written) < 10_000:
            parts.write(bytes(1 << 16))
            written.append(1)
            await asyncio.sleep(0)
        while (await receive())["type"] != "http.disconnect":
            pass
        written.append(int(parts.is_ready()))
        left.set()

    async with serving(stream) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        while len(written) < 5:
            await asyncio.sleep(0.01)
        writer.close()
        await asyncio.wait_for(left.wait(), 5)
    assert len(written) < 10_000 and written[-1] == 0
