"""A request to a server and its answer, as the front passes them on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.types import Message, Receive, Scope, Send

from server.api.errors import error_event
from server.errors import BodyTooLarge, EngineUnavailable

logger = logging.getLogger("loragate.front")

#: Connections are the front's own; the answer's length or chunks are made anew.
_HOP_HEADERS = frozenset(
    (
        "connection",
        "date",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
    )
)


class NoReplica(EngineUnavailable):
    """No server of the cluster accepts requests."""


class ServerFailed(Exception):  # never leaves this module
    """Another server may try."""


class ClientLeft(Exception):  # nobody is left to be told
    """The client left before its request was complete."""


class RelayMetrics:
    """What a front counts itself, for its own `/metrics`; servers know nothing of it.

    Args:
        front: the label of this front's series.
    """

    def __init__(self, front: str) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"loragate_front_{name}", text, ("front", *labels), registry=self._registry)

        self._front = front
        self._answers = counter(
            "answers", "Answers passed on, by their server and status.", "replica", "status"
        )
        self._failures = counter("failed_servers", "Servers that failed before an answer began.", "replica")
        self._broken = counter("broken_answers", "Answers that broke off after they had begun.", "replica")
        self._refused = counter(
            "refused", "Requests that the front refused itself, by the code of the error.", "code"
        )
        in_flight = "Requests that the front has not answered yet."
        self._in_flight = Gauge(
            "loragate_front_requests_in_flight", in_flight, ("front",), registry=self._registry
        )

    def text(self) -> bytes:
        """The series, as Prometheus reads them."""
        return generate_latest(self._registry)

    def in_flight(self) -> AbstractContextManager[None]:
        """Count a request while the context lasts."""
        return self._in_flight.labels(self._front).track_inprogress()

    def answered(self, replica: str, status: int) -> None:
        """An answer of this server begins."""
        self._answers.labels(self._front, replica, str(status)).inc()

    def failed(self, replica: str) -> None:
        """A server failed before its answer began; another one is asked."""
        self._failures.labels(self._front, replica).inc()

    def broke_off(self, replica: str) -> None:
        """An answer of this server broke off."""
        self._broken.labels(self._front, replica).inc()

    def refused(self, code: str) -> None:
        """The front refused a request."""
        self._refused.labels(self._front, code).inc()


class AskedServer(AbstractAsyncContextManager[aiohttp.ClientResponse]):
    """aiohttp's request, whose failures are `ServerFailed` where another server may try."""

    def __init__(self, request: aiohttp.client._RequestContextManager, retry: bool) -> None:
        self._request, self._retry = request, retry

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            return await self._request.__aenter__()
        except aiohttp.ClientConnectorError as error:  # nothing was sent
            raise ServerFailed from error
        except (aiohttp.ClientError, OSError) as error:
            if self._retry:
                raise ServerFailed from error
            raise NoReplica(
                "The server that got this request failed; look whether it took effect."
            ) from error

    async def __aexit__(self, *error: object) -> None:
        await self._request.__aexit__(*error)  # type: ignore[arg-type]


async def send_answer(
    scope: Scope,
    answer: aiohttp.ClientResponse,
    first: bytes,
    receive: Receive,
    send: Send,
    broke_off: Callable[[], None],
) -> None:
    """Send status, headers and body; a stream that breaks gets an error event. Ends when the client leaves."""
    headers = [
        (name.lower(), value)
        for name, value in answer.raw_headers
        if name.lower().decode() not in _HOP_HEADERS
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    leaving = asyncio.ensure_future(_left(receive))
    sending = asyncio.ensure_future(_send_body(scope, answer, first, send, broke_off))
    try:
        await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (leaving, sending):
            task.cancel()
        await asyncio.gather(leaving, sending, return_exceptions=True)


async def _send_body(
    scope: Scope, answer: aiohttp.ClientResponse, first: bytes, send: Send, broke_off: Callable[[], None]
) -> None:
    try:
        if first:
            await send(_part(first))
        async for piece in answer.content.iter_any():
            await send(_part(piece))
    except (aiohttp.ClientError, OSError) as error:
        broke_off()
        logger.warning("A stream of %s broke: %s", answer.url.origin(), error)
        if not answer.content_type.startswith("text/event-stream"):
            raise  # the client sees a body that is too short
        event = error_event(EngineUnavailable("The server of this answer failed."), scope["path"])
        await send(_part(event.encode()))
    await send({"type": "http.response.body", "body": b""})


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def forwarded_headers(scope: Scope) -> dict[str, str]:
    """The caller's headers, and its address: a server delays the answers to wrong keys by it."""
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name.decode("latin-1") not in _HOP_HEADERS and not name.startswith(b"x-forwarded-")
    }
    if scope.get("client"):
        headers["x-forwarded-for"] = scope["client"][0]
    return headers


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The body of a request. Raises: BodyTooLarge, ClientLeft."""
    body = bytearray()
    async for piece in body_pieces(receive):
        body += piece
        if len(body) > max_bytes:
            raise BodyTooLarge(
                f"The request body has at least {len(body)} bytes; {max_bytes} are accepted (--max-body-bytes)."
            )
    return bytes(body)


async def body_pieces(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises: ClientLeft."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if piece := message.get("body", b""):
            yield piece
        if not message.get("more_body"):
            return
