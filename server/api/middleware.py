"""The outermost ASGI middleware: request id, body limits, one log line per request, and a 500 in our shape."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.errors import BodyTooLarge, BodyTooSlow, InternalError
from server.request.access_log import AccessRecord

access_log = logging.getLogger("loragate.access")
logger = logging.getLogger("loragate.api")

#: A caller's own id is used when it is safe in headers and logs.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Not logged: there are too many probes and scrapes.
_QUIET_PATHS = {"/health", "/ready", "/metrics"}
#: Each open console polls them every second: they are logged only when they fail.
_POLLED_PATHS = {"/admin/v1/live", "/admin/v1/errors"}

#: Adapter uploads; they have a size limit of their own (`adapters.lifecycle.Rules.max_bytes`).
_UPLOADS = "/admin/v1/adapters/"
_UPLOAD_TYPES = ("application/x-tar", "application/gzip", "application/octet-stream")

#: nginx's status for a client that disconnected before the answer; it is only logged.
CLIENT_CLOSED_REQUEST = 499


class RequestMiddleware:
    """Gives every request an id and an access record (`scope["state"]`), and every response its headers."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, read_timeout_s: float = 60.0) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._read_timeout_s = read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _SAFE_ID.fullmatch(sent_id) else uuid4().hex
        record = AccessRecord(request_id, scope["method"], scope["path"])
        scope.setdefault("state", {}).update(request_id=request_id, record=record)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
            await send(message)

        limited = _limited(scope, receive, self._max_body_bytes, self._read_timeout_s)
        try:
            await self._app(scope, limited, send_with_headers)
        except ClientDisconnect:  # during an upload
            record.status = CLIENT_CLOSED_REQUEST
        except Exception as error:  # process edge: any exception becomes one 500 and one log line
            logger.exception("unhandled error", extra={"request_id": request_id})
            record.error = type(error).__name__
            if not started:
                await error_response(InternalError())(scope, receive, send_with_headers)
        finally:
            record.total_ms = round((time.perf_counter() - began) * 1000, 1)
            if record.path not in _QUIET_PATHS and not (
                record.path in _POLLED_PATHS and record.status == 200
            ):
                access_log.info("request", extra=record.log_fields())


def is_upload(headers: Headers) -> bool:
    """Whether the body is an archive or a piece of one, and not JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _UPLOAD_TYPES


def _limited(scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> Receive:
    """`receive` that raises BodyTooLarge as soon as the body exceeds the limit, and BodyTooSlow after the timeout."""
    headers = Headers(scope=scope)
    if scope["path"].startswith(_UPLOADS) and is_upload(headers):
        return receive
    announced = headers.get("content-length", "")
    received_bytes = 0
    complete = False
    due_at = time.monotonic() + timeout_s

    async def limited() -> Message:
        nonlocal received_bytes, complete
        if complete:  # only the disconnect is still to come
            return await receive()
        if announced.isdigit() and int(announced) > limit_bytes:
            raise BodyTooLarge(_too_large(int(announced), limit_bytes))
        try:
            message = await asyncio.wait_for(receive(), max(0.0, due_at - time.monotonic()))
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The request body did not arrive within {timeout_s:g} s; send it faster or in smaller requests."
            ) from error
        complete = not message.get("more_body", False)
        received_bytes += len(message.get("body", b""))
        if received_bytes > limit_bytes:
            raise BodyTooLarge(_too_large(received_bytes, limit_bytes))
        return message

    return limited


def _too_large(found_bytes: int, limit_bytes: int) -> str:
    return f"The request body has at least {found_bytes} bytes; this server accepts {limit_bytes} (--max-body-bytes)."
