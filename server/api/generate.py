"""The routes that generate: one path for chat, completions, responses and messages.

One coroutine holds everything that a request needs (its adapter, its place in the gate) and sends the answer, so that
nothing stays held after the request, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator
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
from server.api.headers import debug_header, ignored_header, stream_head
from server.api.middleware.body_reader import announced_bytes, read_body_bytes
from server.api.middleware.disconnects import run_while_connected
from server.api.middleware.request_middleware import CLIENT_CLOSED_REQUEST
from server.api.request_observer import RequestObserver
from server.auth.authenticator import Authenticator
from server.observability.readiness import Readiness
from server.observability.tracing import Tracing
from server.request.access_log import AccessRecord
from server.request.batch import BatchService
from server.request.context import Caller, JsonAnswer, RequestContext
from server.request.event_loop import pause
from server.request.request_service import RequestService
from server.usage.records.recorder import Recorder
from server.usage.records.recording import Recording

#: A stream is silent for at most twice as long; proxies wait for 30 to 60 seconds.
SILENCE_S = 10.0
#: Characters of events between two pauses for the event loop; they take up to 5 ms.
_PAUSE_CHARACTERS = 16 << 10


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
    records: Recorder
    batches: BatchService | None = None
    """Where the route takes several chats in one request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, to its last byte."""
        request = Request(scope, receive)
        record: AccessRecord = scope["state"]["record"]
        response = ResponseSender(scope, receive, send)
        contexts: tuple[RequestContext, ...] = ()
        trace = self.tracing.begin(request.headers, record.path)
        record.trace_id = trace.id
        try:
            caller = await self.authenticator.authenticate(request.headers)
            self.readiness.require_ready()
            record.note_caller(caller)
            with contextlib.ExitStack() as reading:
                reading.enter_context(self.requests.memory.hold(caller.tenant_name, announced_bytes(request)))
                read = [await read_body_bytes(request)]  # a list: its bytes are gone while the answer runs

                async def serve() -> None:
                    nonlocal contexts
                    with self.records.recording(caller, self.endpoint, read[0]) as recording:
                        contexts = await self._prepare(caller, read.pop(), request.headers, record)
                        if self.batches is None:  # the chats of a batch wait for their turn with their bytes
                            reading.close()
                        await self._answer(contexts, trace.headers, response, recording)

                await run_while_connected(receive, self.requests.ending, serve())
        except ClientDisconnect:
            record.status = CLIENT_CLOSED_REQUEST
        except HANDLED as error:
            rate_headers = self.requests.rate_headers(contexts[0]) if contexts else {}
            record.code = await response.fail(error, rate_headers)
            # The name of the limit says more than the code that several limits share.
            reason = error.limit if isinstance(error, AdmissionError) else record.code
            self.observer.refused(record.tenant or "", reason)
        except Exception:  # the middleware answers 500; the metrics must not count the request as served
            record.status = record.status or 500
            raise
        finally:
            record.note_usage(*contexts)
            self.observer.finished(record, *contexts)
            trace.end(record, contexts[0] if contexts else None)

    async def _prepare(
        self, caller: Caller, raw: bytes, headers: Headers, record: AccessRecord
    ) -> tuple[RequestContext, ...]:
        """Parse the body and route the request; a batch has several. Raises: what the table of errors has."""
        asked: dict[str, Any] = {"prompt": f"{len(raw)} bytes"}
        if self.batches is not None:
            contexts = await self.batches.prepare(caller, raw, headers, record)
        else:
            body = await self.requests.read(caller, self.endpoint, raw)
            record.note_requested_model(body.fields)
            asked = body.fields if body.raw is None else asked
            contexts = (await self.requests.prepare(caller, self.endpoint, body, headers, record.request_id),)
        record.note_target(contexts[0])
        if self.log_prompts:
            record.note_prompt(asked)
        return contexts

    async def _answer(
        self,
        contexts: tuple[RequestContext, ...],
        headers: Headers,
        response: ResponseSender,
        recording: Recording | None,
    ) -> None:
        context = contexts[0]
        serving = (
            self.requests.serve(context, headers)
            if self.batches is None
            else self.batches.serve(contexts, headers)
        )
        async with serving as served:
            self.observer.answering(*contexts)
            answer = served if recording is None else recording.noting(served)
            own_headers = self._headers(context)
            if answer.ignored:
                own_headers["x-loragate-ignored"] = ignored_header(answer.ignored)
            if isinstance(answer, JsonAnswer):
                await response.json(answer, own_headers)
            else:
                await response.stream(answer.events, own_headers)
        if recording is not None:
            recording.answered(context)

    def _headers(self, context: RequestContext) -> dict[str, str]:
        headers = self.requests.rate_headers(context)
        if context.sampling.clamped:
            headers["x-loragate-clamped"] = ", ".join(context.sampling.clamped)
        if context.debug:
            headers["x-loragate-debug"] = debug_header(
                context.sampling.effective(context.endpoint), context.target.blend
            )
        return headers


class ResponseSender:
    """Sends the response of one request: whole, as a stream, or as an error before or within either."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send_message = send
        self._send_body: Send = scope["state"].get("send_body", send)
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

    async def stream(self, events: AsyncGenerator[str], headers: dict[str, str]) -> None:
        """Send events. Nothing is sent before the first event, so an error before it has its own status."""
        unpaused = 0
        with self._signs_of_life():
            async with aclosing(events):
                async for event in events:
                    failure = event_failure(event)
                    if failure is not None:  # vLLM wrote it; raised, so that all errors have our shape
                        raise failure
                    unpaused += len(event)
                    if (
                        unpaused > _PAUSE_CHARACTERS
                    ):  # one step of many choices has many; sending need not wait
                        unpaused = 0
                        await pause()
                    if not self._started:
                        await self._send(stream_head(headers))
                    await self._send_part(event)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

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
        self._started = True
        self._sent_at = time.monotonic()
        await self._send_message(message)

    async def _send_part(self, events: str) -> None:
        """Send a part of a body that has begun: past the middleware, which changes the head only."""
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
