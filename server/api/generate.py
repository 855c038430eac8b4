"""The routes that generate: one path for chat, completions, responses and messages.

One coroutine holds everything that a request needs (its adapter, its place in the gate) and sends the answer, so that
nothing stays held after the request, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from sampling.endpoints import Endpoint
from server.admission.errors import AdmissionError
from server.api.errors import HANDLED, error_body, error_event, error_response, event_failure
from server.api.headers import debug_header, ignored_header
from server.api.middleware import CLIENT_CLOSED_REQUEST
from server.api.request_observer import RequestObserver
from server.auth.authenticator import Authenticator
from server.errors import Draining, InvalidRequest
from server.observability.readiness import Readiness
from server.observability.tracing import Tracing
from server.request.access_log import AccessRecord
from server.request.context import JsonAnswer, RequestContext
from server.request.service import RequestService

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True, eq=False)
class GenerateRoute:
    """ASGI endpoint of one generating route."""

    endpoint: Endpoint
    authenticator: Authenticator
    readiness: Readiness
    requests: RequestService
    observer: RequestObserver
    tracing: Tracing
    log_prompts: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, to its last byte."""
        request = Request(scope, receive)
        record: AccessRecord = scope["state"]["record"]
        response = ResponseSender(scope, receive, send)
        context: RequestContext | None = None
        trace = self.tracing.begin(request.headers, self.endpoint.path)
        record.trace_id = trace.id
        try:
            context = await self._prepare(request, record)
            answering = self._answer(context, trace.headers, response)
            await run_while_connected(receive, self.requests.ending, answering)
        except ClientDisconnect:
            record.status = CLIENT_CLOSED_REQUEST
        except HANDLED as error:
            rate_headers = self.requests.rate_headers(context) if context else {}
            record.code = await response.fail(error, rate_headers)
            # The name of the limit says more than the code that several limits share.
            reason = error.limit if isinstance(error, AdmissionError) else record.code
            self.observer.refused(record.tenant or "", reason)
        except Exception:  # the middleware answers 500; the metrics must not count the request as served
            record.status = record.status or 500
            raise
        finally:
            if context is not None:
                record.note_usage(context)
            self.observer.finished(record, context)
            trace.end(record, context)

    async def _prepare(self, request: Request, record: AccessRecord) -> RequestContext:
        """Authenticate the caller, read the body and route the request. Raises: what the table of errors has."""
        caller = await self.authenticator.authenticate(request.headers)
        self.readiness.require_ready()
        record.note_caller(caller)
        body = await read_json(request)
        record.note_requested_model(body)
        context = await self.requests.prepare(caller, self.endpoint, body, request.headers, record.request_id)
        record.note_target(context)
        if self.log_prompts:
            record.note_prompt(body)
        return context

    async def _answer(self, context: RequestContext, headers: Headers, response: ResponseSender) -> None:
        async with self.requests.serve(context, headers) as answer:
            own_headers = self._headers(context)
            if answer.ignored:
                own_headers["x-loragate-ignored"] = ignored_header(answer.ignored)
            if isinstance(answer, JsonAnswer):
                await response.json(answer.content, own_headers)
            else:
                await response.stream(answer.events, own_headers)

    def _headers(self, context: RequestContext) -> dict[str, str]:
        headers = self.requests.rate_headers(context)
        if context.sampling.clamped:
            headers["x-loragate-clamped"] = ", ".join(context.sampling.clamped)
        if context.debug:
            headers["x-loragate-debug"] = debug_header(context.sampling.effective(context.endpoint))
        return headers


class ResponseSender:
    """Sends the response of one request: whole, as a stream, or as an error before or within either."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send_message = send
        self._started = False

    async def json(self, content: dict[str, Any], headers: dict[str, str]) -> None:
        """Send a whole answer."""
        await JSONResponse(content, headers=headers)(self._scope, self._receive, self._send)

    async def stream(self, events: AsyncGenerator[str], headers: dict[str, str]) -> None:
        """Send events. Nothing is sent before the first event, so an error before it has its own status."""
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
                await self._send(_body_part(event))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: Exception, headers: dict[str, str]) -> str:
        """Send the error, as a response or as an event of the stream; returns its code."""
        body = error_body(error)
        if self._started:
            await self._send(_body_part(error_event(error)))
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            response = error_response(error)
            response.headers.update(headers)
            await response(self._scope, self._receive, self._send)
        return str(body["error"]["code"])

    async def _send(self, message: Message) -> None:
        self._started = True
        await self._send_message(message)


def _body_part(event: str) -> Message:
    return {"type": "http.response.body", "body": event.encode(), "more_body": True}


async def _checked(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events; an error that vLLM wrote into one is raised, so that all errors have our shape.

    The stream ends with the error: only vLLM's own `[DONE]` would follow it.
    """
    async for event in events:
        failure = event_failure(event)
        if failure is not None:
            raise failure
        yield event


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object.

    Raises:
        InvalidRequest: the body is not a JSON object.
        BodyTooLarge, BodyTooSlow, ClientDisconnect
    """
    raw = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and media_type != "application/json":
        raise InvalidRequest(
            f"The content type must be application/json, not {media_type[:80]}.", code="invalid_json"
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


async def run_while_connected(
    receive: Receive, ending: asyncio.Event, work: Coroutine[Any, Any, None]
) -> None:
    """Run `work` until it is done, the client disconnects, or the server ends.

    Raises:
        ClientDisconnect: the client disconnected; `work` was cancelled and has cleaned up.
        Draining: the server ends; `work` was cancelled and has cleaned up.
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
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, *HANDLED):
                await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
