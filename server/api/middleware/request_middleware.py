"""The outermost ASGI middleware: request id, body limits, one log line per request, and a 500 in our shape."""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.api.middleware.body_reader import limited
from server.errors import InternalError, InvalidRequest
from server.request.access_log import AccessRecord

access_log = logging.getLogger("loragate.access")
logger = logging.getLogger("loragate.api")

#: A caller's own id is used when it is safe in headers and logs.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Not logged: there are too many probes and scrapes.
_QUIET_PATHS = {"/health", "/ready", "/metrics", "/internal/replica"}
#: Each open console polls them every second: they are logged only when they fail.
_POLLED_PATHS = {"/admin/v1/live", "/admin/v1/errors"}

_QUERY_PARAMETERS = 64  # FastAPI looks for each among all others

#: nginx's status for a client that disconnected before the answer; it is only logged.
CLIENT_CLOSED_REQUEST = 499


class RequestMiddleware:
    """Gives every request an id and an access record (`scope["state"]`), and every response its headers.

    `scope["state"]["send_body"]` sends the parts of a body whose head was sent, past the other middleware.
    """

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
        scope.setdefault("state", {}).update(request_id=request_id, record=record, send_body=send)
        started = False
        app = _refused_query(scope) or self._app

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
            await send(message)

        limited_receive = limited(scope, receive, self._max_body_bytes, self._read_timeout_s)
        try:
            await app(scope, limited_receive, send_with_headers)
        except ClientDisconnect:  # during an upload
            record.status = CLIENT_CLOSED_REQUEST
        except Exception as error:  # process edge: any exception becomes one 500 and one log line
            logger.exception("unhandled error", extra={"request_id": request_id})
            record.error = type(error).__name__
            if not started:
                await error_response(InternalError(), record.path)(scope, receive, send_with_headers)
        finally:
            record.total_ms = round((time.perf_counter() - began) * 1000, 1)
            if record.path not in _QUIET_PATHS and not (
                record.path in _POLLED_PATHS and record.status == 200
            ):
                access_log.info("request", extra=record.log_fields())


def _refused_query(scope: Scope) -> ASGIApp | None:
    """The answer to a query that is too long; None to any other."""
    parameters = scope["query_string"].count(b"&") + 1
    if parameters <= _QUERY_PARAMETERS:
        return None
    message = f"The query has {parameters} parameters; at most {_QUERY_PARAMETERS} are accepted. Send less."
    return error_response(InvalidRequest(message), scope["path"])
