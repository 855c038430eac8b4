"""How large a request's body may be and how long it may take, and the functions with which routes read it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from sampling.endpoints import Endpoint
from server.errors import BodyTooLarge, BodyTooSlow, InvalidRequest
from server.request import batch
from server.request.body import has_few_values, parse
from server.request.tokenization import TokenRoute

#: Adapter uploads; they have a size limit of their own (`adapters.lifecycle.Rules.max_bytes`).
_UPLOADS = "/admin/v1/adapters/"
_UPLOAD_TYPES = ("application/x-tar", "application/gzip", "application/octet-stream")

#: The routes whose bodies hold a prompt. All other JSON is validated on the event loop: 12 us for each wrong value.
_PROMPT_PATHS = {batch.PATH, *(each.path for each in (*Endpoint, *TokenRoute))}
_SMALL_JSON_BYTES = 512 << 10
_SMALL_JSON_VALUES = 1536


def is_upload(headers: Headers) -> bool:
    """Whether the body is an archive or a piece of one, and not JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _UPLOAD_TYPES


@dataclass(frozen=True, slots=True)
class _BodyLimit:
    size_bytes: int
    reason: str
    values: int | None = None
    """Most values of JSON where it is validated on the event loop; None: bounded elsewhere."""

    def exceeded_by(self, found_bytes: int) -> BodyTooLarge | None:
        if found_bytes <= self.size_bytes:
            return None
        return BodyTooLarge(
            f"The request body has at least {found_bytes} bytes; {self.size_bytes} are accepted here ({self.reason})."
        )


def _body_limit(path: str, max_body_bytes: int) -> _BodyLimit:
    """The limit of a JSON body on this path."""
    if path in _PROMPT_PATHS:
        return _BodyLimit(max_body_bytes, "--max-body-bytes")
    if max_body_bytes <= _SMALL_JSON_BYTES:
        return _BodyLimit(max_body_bytes, "--max-body-bytes", _SMALL_JSON_VALUES)
    return _BodyLimit(_SMALL_JSON_BYTES, "a fixed limit of the routes without a prompt", _SMALL_JSON_VALUES)


def limited(scope: Scope, receive: Receive, max_body_bytes: int, timeout_s: float) -> Receive:
    """`receive` that raises BodyTooLarge as soon as the body exceeds the limit, and BodyTooSlow after the timeout."""
    limit = _body_limit(scope["path"], max_body_bytes)
    scope["state"]["max_body_bytes"] = limit.size_bytes
    if scope["path"].startswith(_UPLOADS) and is_upload(Headers(scope=scope)):
        return receive
    return _LimitedBody(scope, receive, limit, timeout_s).receive


class _LimitedBody:
    """A body that is counted while it comes."""

    def __init__(self, scope: Scope, receive: Receive, limit: _BodyLimit, timeout_s: float) -> None:
        self._announced = Headers(scope=scope).get("content-length", "")
        self._receive, self._limit, self._timeout_s = receive, limit, timeout_s
        self._due_at = time.monotonic() + timeout_s
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._complete = False

    async def receive(self) -> Message:
        """The next message. Raises: BodyTooLarge, BodyTooSlow; InvalidRequest: too many values."""
        if self._complete:  # only the disconnect is still to come
            return await self._receive()
        announced = self._announced
        if announced.isdigit() and (refusal := self._limit.exceeded_by(int(announced[:20]))):
            raise refusal
        message = await self._next()
        self._complete = not message.get("more_body", False)
        self._received_bytes += len(message.get("body", b""))
        if refusal := self._limit.exceeded_by(self._received_bytes):
            raise refusal
        if self._limit.values is not None:
            self._received.append(message.get("body", b""))
            if self._complete and not has_few_values(b"".join(self._received), self._limit.values):
                raise InvalidRequest(
                    f"The body has more than {self._limit.values} JSON values, the most of this route. Send less.",
                    code="request_too_large",
                )
        return message

    async def _next(self) -> Message:
        try:
            # Not `wait_for`, which starts a task for each message.
            async with asyncio.timeout(max(0.0, self._due_at - time.monotonic())):
                return await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The request body did not arrive within {self._timeout_s:g} s; send it faster or in smaller "
                "requests."
            ) from error


async def read_body_bytes(request: Request) -> bytes:
    """The bytes of a JSON body, not parsed.

    Raises:
        InvalidRequest: its headers announce something else.
        BodyTooLarge, BodyTooSlow, ClientDisconnect
    """
    # Not `request.body()`, which keeps the bytes as long as the request.
    raw = b"".join([part async for part in request.stream()])
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and media_type != "application/json":
        raise InvalidRequest(
            f"The content type must be application/json, not {media_type[:80]}.", code="invalid_json"
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise InvalidRequest(
            f"The body must not be compressed; its content encoding is {coding[:80]}.", code="invalid_json"
        )
    return raw


def announced_bytes(request: Request) -> int:
    """The size of the body in its headers; without one the largest that a body may have."""
    announced = request.headers.get("content-length", "")
    limit: int = request.scope["state"]["max_body_bytes"]
    return min(int(announced[:20]), limit) if announced.isdigit() else limit


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a route that takes small ones (`--max-body-bytes` does not hold there), as an object.

    Raises:
        InvalidRequest: the body is not a JSON object.
        BodyTooLarge, BodyTooSlow, ClientDisconnect
    """
    return parse(await read_body_bytes(request))
