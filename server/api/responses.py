"""Sends the response of a generating request, with headers that describe how the request was understood."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from adapters.lifecycle.blends.blending import ScaledVersion
from server.api.errors import error_body, error_event, error_response, event_failure
from server.request.context import JsonAnswer, StreamAnswer
from server.request.event_loop import pause

#: A stream is silent for at most twice as long; proxies wait for 30 to 60 seconds.
SILENCE_S = 10.0
#: Characters of events between two pauses for the event loop; they take up to 5 ms.
_PAUSE_CHARACTERS = 16 << 10
#: Longer values, such as a JSON schema, are cut off.
MAX_SHOWN_CHARS = 200
MAX_IGNORED_NAMES = 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def ignored_header(names: Sequence[str]) -> str:
    """The names of ignored fields that are safe in a header, and the number of the others."""
    shown = [name for name in names if _SAFE_NAME.fullmatch(name)][:MAX_IGNORED_NAMES]
    hidden = len(names) - len(shown)
    return ", ".join([*shown, f"{hidden} more"] if hidden else shown)


def debug_header(effective: Mapping[str, Mapping[str, Any]], blend: Sequence[ScaledVersion] = ()) -> str:
    """The options of a request and the origin of each, as JSON; a long value is cut off and becomes text.

    `adapters` has the versions that a blend was made of, for a request that names several.
    """
    shown: dict[str, Any] = {}
    for name, option in effective.items():
        text = json.dumps(option["value"], separators=(",", ":"))
        is_long = len(text) > MAX_SHOWN_CHARS
        shown[name] = {
            "value": f"{text[:MAX_SHOWN_CHARS]}…" if is_long else option["value"],
            "from": option["from"],
        }
    if blend:
        versions = [
            {"name": f"{part.version.public_name}@{part.version.number}", "scale": part.scale}
            for part in blend
        ]
        shown["adapters"] = {"value": versions, "from": "request"}
    return json.dumps(shown, separators=(",", ":"))


def stream_head(headers: Mapping[str, str]) -> Message:
    """The head of a stream."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": list(_SSE_HEADERS)}
    MutableHeaders(scope=start).update(headers)
    return start


class BodyParts(Protocol):
    """Writes parts of a body that has begun (`server.app.http_protocol`)."""

    def is_ready(self) -> bool:
        """Whether a part can be written now."""

    def write(self, part: bytes) -> None:
        """Write a part; no effect when the client has left."""


class ResponseSender:
    """Sends the response of one request: whole, as a stream, or as an error before or within either."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send_message = send
        self._send_body: Send = scope["state"].get("send_body", send)
        self._parts: BodyParts | None = scope["state"].get("body_parts")
        self._kept: list[str] = []
        self._started = False
        self._sent_at = 0.0

    async def json(self, answer: JsonAnswer, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        if answer.pieces is None:
            await JSONResponse(answer.content, headers=headers)(self._scope, self._receive, self._send)
            return
        parts = await answer.parts()
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        length = {"content-type": "application/json", "content-length": str(sum(map(len, parts)))}
        MutableHeaders(scope=start).update(headers | length)
        await self._send(start)
        for part in parts:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            await pause()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def stream(self, answer: StreamAnswer, headers: dict[str, str]) -> None:
        """Send events. Nothing is sent before the first event, so an error before it has its own status."""
        unpaused = 0
        events, shortcut = answer.events, answer.shortcut
        with self._signs_of_life():
            async with aclosing(events):
                async for event in events:
                    failure = event_failure(event)
                    if failure is not None:  # vLLM wrote it; raised, so that all errors have our shape
                        raise failure
                    unpaused += len(event)
                    # One step of many choices has many events, and sending them need not wait for anything.
                    if unpaused > _PAUSE_CHARACTERS:
                        unpaused = 0
                        await pause()
                    if not self._started:
                        await self._send(stream_head(headers))
                    await self._send_part(event)
                    if shortcut is not None and self._parts is not None:
                        shortcut(self)
                        shortcut = None
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def is_ready(self) -> bool:
        """See `PartWriter`."""
        return self._parts is not None and self._parts.is_ready()

    def keep(self, text: str) -> None:
        """See `PartWriter`."""
        self._kept.append(text)

    def flush(self) -> None:
        """See `PartWriter`."""
        if not self._kept or self._parts is None:
            return
        self._sent_at = time.monotonic()
        part = "".join(self._kept).encode()
        self._kept.clear()
        self._parts.write(part)

    async def fail(self, error: Exception, headers: dict[str, str]) -> str:
        """Send the error, as a response or as an event of the stream; returns its code."""
        path = self._scope["path"]
        body = error_body(error, path)
        if self._started:
            await self._send_part(error_event(error, path))
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            response = error_response(error, path)
            response.headers.update(headers)
            await response(self._scope, self._receive, self._send)
        return str(body["error"]["code"])

    async def _send(self, message: Message) -> None:
        self.flush()
        self._started = True
        self._sent_at = time.monotonic()
        await self._send_message(message)

    async def _send_part(self, events: str) -> None:
        """Send a part of a body that has begun: past the middleware, which changes the head only."""
        self.flush()
        self._sent_at = time.monotonic()
        await self._send_body({"type": "http.response.body", "body": events.encode(), "more_body": True})

    @contextlib.contextmanager
    def _signs_of_life(self) -> Generator[None]:
        """Send comments, which clients ignore, while a call is written: proxies close silent connections."""
        loop = asyncio.get_running_loop()
        comment: asyncio.Task[None] | None = None
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal comment, timer
            timer = loop.call_later(SILENCE_S, look)
            is_silent = self._started and time.monotonic() - self._sent_at >= SILENCE_S
            if is_silent and (comment is None or comment.done()):
                comment = asyncio.ensure_future(self._send_part(":\n\n"))

        timer = loop.call_later(SILENCE_S, look)
        try:
            yield
        finally:
            timer.cancel()
            if comment is not None:
                comment.cancel()
