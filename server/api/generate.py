"""The routes that generate: one path for chat, completions, responses and messages.

Everything a request holds (its adapter, its place in the gate) is held inside one coroutine that also sends the
answer, so nothing can be left behind, however the request ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from sampling.endpoints import Endpoint
from sampling.layers import Resolved
from server.admission.errors import AdmissionError
from server.api.access_log import note_asked, note_caller, note_prompt, note_target, note_usage
from server.api.errors import HANDLED, error_body, error_event, error_response, event_failure
from server.api.headers import debug_header, ignored_header
from server.api.middleware import CLIENT_CLOSED_REQUEST, Record
from server.config.settings import Settings
from server.errors import Draining, InvalidRequest
from server.observability.tracing import Tracing
from server.request.context import Answer, Caller, JsonAnswer, RequestContext

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Service(Protocol):
    """What a route needs of the composed server (`server.app.composition`)."""

    settings: Settings
    tracing: Tracing

    async def enter(self, headers: Headers) -> Caller:
        """Who calls; raises when the server takes no work or the key is wrong."""

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: dict[str, Any], headers: Headers, request_id: str
    ) -> tuple[RequestContext, Resolved]:
        """Route the request and fill its decoding options in."""

    def serve(
        self, endpoint: Endpoint, context: RequestContext, resolved: Resolved, headers: Headers
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Hold what the request needs while its answer is being sent."""

    @property
    def ending(self) -> asyncio.Event:
        """Set when what still runs is to be cut off."""

    def rate_headers(self, context: RequestContext) -> dict[str, str]:
        """`x-ratelimit-*` as they stand now."""

    def observe(self, endpoint: Endpoint, context: RequestContext, status: int) -> None:
        """Count a finished request."""

    def refuse(self, tenant: str, reason: str) -> None:
        """Count a request that was refused."""

    def remember(self, record: Record, context: RequestContext | None) -> None:
        """Keep what may be asked about a finished request."""


class GenerateRoute:
    """ASGI endpoint of one generating route."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self._service = service
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, to its last byte."""
        request = Request(scope, receive)
        record: Record = scope["state"]["record"]
        out = _Out(scope, receive, send)
        context: RequestContext | None = None
        trace = self._service.tracing.begin(request.headers, self._endpoint.path)
        if trace.id is not None:
            record["trace_id"] = trace.id
        try:
            caller = await self._service.enter(request.headers)
            note_caller(record, caller)
            body = await read_json(request)
            note_asked(record, body)
            context, resolved = await self._service.prepare(
                caller, self._endpoint, body, request.headers, scope["state"]["request_id"]
            )
            note_target(record, context, resolved)
            if self._service.settings.log_prompts:
                note_prompt(record, body)
            await until_gone(
                receive, self._service.ending, self._answer(context, resolved, trace.headers, out)
            )
        except ClientDisconnect:
            record["status"] = CLIENT_CLOSED_REQUEST
        except HANDLED as error:
            record["code"] = await out.fail(error, self._service.rate_headers(context) if context else {})
            # Which limit it was says more than the code that several share.
            reason = error.limit if isinstance(error, AdmissionError) else record["code"]
            self._service.refuse(record.get("tenant", ""), reason)
        except Exception:  # the middleware answers; here it must not count as served
            record.setdefault("status", 500)
            raise
        finally:
            if context is not None:
                note_usage(record, context)
                self._service.observe(self._endpoint, context, record.get("status", 200))
            self._service.remember(record, context)
            trace.end(record, context)

    async def _answer(self, context: RequestContext, resolved: Resolved, headers: Headers, out: _Out) -> None:
        async with self._service.serve(self._endpoint, context, resolved, headers) as answer:
            about = self._headers(context, resolved)
            if answer.ignored:
                about["x-loragate-ignored"] = ignored_header(answer.ignored)
            if isinstance(answer, JsonAnswer):
                await out.json(answer.content, about)
            else:
                await out.stream(answer.events, about)

    def _headers(self, context: RequestContext, resolved: Resolved) -> dict[str, str]:
        headers = self._service.rate_headers(context)
        if resolved.clamped:
            headers["x-loragate-clamped"] = ", ".join(resolved.clamped)
        if context.debug:
            headers["x-loragate-debug"] = debug_header(resolved.effective(self._endpoint))
        return headers


class _Out:
    """The response of one request: whole, as a stream, or as a failure before or within either."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send_raw = send
        self._started = False

    async def json(self, content: dict[str, Any], headers: dict[str, str]) -> None:
        """Send a whole answer."""
        await JSONResponse(content, headers=headers)(self._scope, self._receive, self._send)

    async def stream(self, events: AsyncGenerator[str], headers: dict[str, str]) -> None:
        """Send events. Nothing is sent before the first one is there, so a failure has its own status."""
        async with aclosing(_checked(events)) as checked:
            async for event in checked:
                if not self._started:
                    start: Message = {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": list(_SSE_HEADERS),
                    }
                    MutableHeaders(scope=start).update(headers)
                    await self._send(start)
                await self._send(_part(event))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: Exception, headers: dict[str, str]) -> str:
        """Tell the caller, in whichever way is still open; returns the error's code."""
        body = error_body(error)
        if self._started:
            await self._send(_part(error_event(error)))
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            response = error_response(error)
            response.headers.update(headers)
            await response(self._scope, self._receive, self._send)
        return str(body["error"]["code"])

    async def _send(self, message: Message) -> None:
        self._started = True
        await self._send_raw(message)


def _part(event: str) -> Message:
    return {"type": "http.response.body", "body": event.encode(), "more_body": True}


async def _checked(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events; the error that vLLM wrote into one is raised, so that ours is the only shape.

    A stream ends with it: what vLLM still sends after an error is its own `[DONE]`.
    """
    async for event in events:
        failure = event_failure(event)
        if failure is not None:
            raise failure
        yield event


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object.

    Raises:
        InvalidRequest: it is not JSON, or not an object.
        BodyTooLarge, ClientDisconnect
    """
    raw = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json":
        raise InvalidRequest(
            f"The content type must be application/json, not {kind[:80]}.", code="invalid_json"
        )
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"The body must be a JSON object, not {type(body).__name__}.", code="invalid_json"
        )
    return body


async def until_gone(receive: Receive, ending: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it is done, the client goes away, or the server ends.

    Raises:
        ClientDisconnect: the client went first; `work` was cancelled and has cleaned up.
        Draining: the server ends; the same.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    closing = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({working, watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        elif watching.done():
            raise ClientDisconnect
        else:
            raise Draining(retry_after_s=1)
    finally:
        for task in (working, watching, closing):
            await _end(task)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, *HANDLED):
        await task
