"""uvicorn's HTTP protocol with a time limit and a size limit for the head of a request.

uvicorn limits neither header size nor header time, so a slow client can hold sockets and memory open indefinitely.
"""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.api.errors import error_body, rule_of
from server.errors import HeadTooLarge, InvalidRequest, LoragateError

#: Request line and headers; a chunked body's trailer counts with them.
MAX_HEAD_BYTES = 64 * 1024
#: How long a refused client may finish what it sends; closing at once could discard the answer.
LINGER_S = 1.0


class BodyParts:
    """Writes parts of a response's body to the connection at once, where `send` is a coroutine.

    Leans on (uvicorn 0.54): RequestResponseCycle (`flow.write_paused`, `disconnected`, `response_started`,
    `response_complete`, `chunked_encoding`, `transport`).
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def is_ready(self) -> bool:
        """Whether the body is open, and the client has read most of what was sent."""
        cycle = self._cycle
        return not (cycle.flow.write_paused or cycle.disconnected or cycle.response_complete) and bool(
            cycle.chunked_encoding
        )

    def write(self, part: bytes) -> None:
        """Write a part that is not empty; no effect when the client has left."""
        if not (self._cycle.disconnected or self._cycle.response_complete):
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head is not complete within `head_timeout_s`, or larger than `MAX_HEAD_BYTES`.

    The time runs from the connection's start, and later from the first byte of each request; between two requests
    uvicorn's own keep-alive timeout applies. The size of a complete head is that of its parts, which the parser
    reports. While a head is incomplete, it is the number of bytes received for it.
    """

    head_timeout_s = 60.0
    _head_bytes = 0
    """Received in reads that belong to the present head alone."""
    _parsed_bytes = 0
    """Of the parts of the present head that the parser has reported."""
    _in_body = False
    _heads = 0
    """The number of heads that began or ended on this connection."""
    _refused = False
    _deadline: asyncio.TimerHandle | None = None
    _last_call: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        self._stop_waiting()
        if self._last_call is not None:
            self._last_call.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request; refuses it when its head is too large."""
        if self._refused:
            return
        in_body, heads = self._in_body, self._heads
        super().data_received(data)
        # A head that begins in the same read after another request is counted from the next read on.
        head_alone = not in_body and self._heads - heads <= 1
        if self._deadline is not None and head_alone and not self._refused:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(MAX_HEAD_BYTES))

    def on_message_begin(self) -> None:
        """Called by the parser when a request begins."""
        super().on_message_begin()
        self._heads += 1
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Called by the parser with a part of the URL. Raises: HeadTooLarge, which ends the parsing."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with each header, and each field of a trailer. Raises: HeadTooLarge."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + len(": \r\n"))

    def on_headers_complete(self) -> None:
        """Called by the parser when the head is complete."""
        self._stop_waiting()
        self._heads += 1
        self._in_body = True
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["state"]["body_parts"] = BodyParts(self.cycle)

    def on_message_complete(self) -> None:
        """Called by the parser when the body is complete."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser has stopped: at something that is not HTTP, or at a head too large."""
        too_large = self._parsed_bytes > MAX_HEAD_BYTES
        self._refuse(HeadTooLarge(MAX_HEAD_BYTES) if too_large else InvalidRequest(msg, code="bad_request"))

    def _count(self, size_bytes: int) -> None:
        self._parsed_bytes += size_bytes
        if self._parsed_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge(MAX_HEAD_BYTES)

    def _refuse(self, error: LoragateError) -> None:
        """Answer with an error and close the connection; without an answer where another one is being sent."""
        self._refused = True
        self._stop_waiting()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = (
                True  # the route is told that the client has left, and cannot answer any more
            )
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = json.dumps(error_body(error)).encode()
        head = STATUS_LINE[rule_of(error).status] + (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {uuid4().hex}\r\nconnection: close\r\n\r\n"
        ).encode("ascii")
        self.transport.write(head + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._last_call = self.loop.call_later(LINGER_S, self.transport.close)

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._head_bytes = self._parsed_bytes = 0
        self._deadline = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded(head_timeout_s: float) -> type[BoundedProtocol]:
    """The protocol with this time limit for the head, in seconds."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_timeout_s": head_timeout_s})
