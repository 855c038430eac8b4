"""Heads and bodies have a time and a size, on a real socket under uvicorn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from server.api.errors import error_response
from server.api.http_protocol import MAX_HEAD_BYTES, bounded
from server.api.middleware import RequestMiddleware
from server.errors import LoragateError

TIMEOUT_S = 0.5
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


async def test_who_keeps_to_it_is_served_again_and_again_on_one_connection() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(4):
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
