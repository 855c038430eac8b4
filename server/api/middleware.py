"""The outermost ring, as pure ASGI: request id, body cap, one log line per request, no naked 500."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.errors import BodyTooLarge, BodyTooSlow, InternalError

access_log = logging.getLogger("loragate.access")
logger = logging.getLogger("loragate.api")

#: A caller's own id is taken over when it is harmless in headers and logs.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Not logged: probes and scrapes would drown the rest.
_QUIET_PATHS = {"/health", "/ready", "/metrics"}
#: Asked every second by each open console: logged when refused only.
_POLLED_PATHS = {"/admin/v1/live", "/admin/v1/errors"}

#: Where adapters are uploaded; the stream has a cap of its own there (`adapters.lifecycle.Rules.max_bytes`).
_UPLOADS = "/admin/v1/adapters/"
_UPLOAD_TYPES = ("application/x-tar", "application/gzip", "application/octet-stream")

#: What nginx logs when the client went before the answer; nobody is there to receive it.
CLIENT_CLOSED_REQUEST = 499

Record = MutableMapping[str, Any]


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
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _SAFE_ID.fullmatch(asked) else uuid4().hex
        record: Record = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}
        scope.setdefault("state", {}).update(request_id=request_id, record=record)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
            await send(message)

        try:
            await self._app(
                scope, _capped(scope, receive, self._max_body_bytes, self._read_timeout_s), send_with_headers
            )
        except ClientDisconnect:  # in the middle of an upload
            record["status"] = CLIENT_CLOSED_REQUEST
        except Exception as error:  # process edge: whatever escaped becomes one 500 and one log line
            logger.exception("unhandled error", extra={"request_id": request_id})
            record["error"] = type(error).__name__
            if not started:
                await error_response(InternalError())(scope, receive, send_with_headers)
        finally:
            record["total_ms"] = round((time.perf_counter() - began) * 1000, 1)
            if scope["path"] not in _QUIET_PATHS and not (
                scope["path"] in _POLLED_PATHS and record.get("status") == 200
            ):
                access_log.info("request", extra=dict(record))


def is_upload(headers: Headers) -> bool:
    """Whether the body is an archive, or a piece of one, and no JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _UPLOAD_TYPES


def _capped(scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> Receive:
    """`receive` that raises BodyTooLarge as soon as the body is known to be above the limit, or BodyTooSlow."""
    headers = Headers(scope=scope)
    if scope["path"].startswith(_UPLOADS) and is_upload(headers):
        return receive
    announced = headers.get("content-length", "")
    received_bytes = 0
    whole = False
    due_at = time.monotonic() + timeout_s

    async def capped() -> Message:
        nonlocal received_bytes, whole
        if whole:  # what is waited for now is only the disconnect
            return await receive()
        if announced.isdigit() and int(announced) > limit_bytes:
            raise BodyTooLarge(_too_large(int(announced), limit_bytes))
        try:
            message = await asyncio.wait_for(receive(), max(0.0, due_at - time.monotonic()))
        except TimeoutError as error:
            raise BodyTooSlow(f"The body did not arrive within {timeout_s:g} s.") from error
        whole = not message.get("more_body", False)
        received_bytes += len(message.get("body", b""))
        if received_bytes > limit_bytes:
            raise BodyTooLarge(_too_large(received_bytes, limit_bytes))
        return message

    return capped


def _too_large(found_bytes: int, limit_bytes: int) -> str:
    return f"The request body has at least {found_bytes} bytes; this server takes {limit_bytes}."
