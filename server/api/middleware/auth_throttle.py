"""ASGI middleware that delays answers to wrong keys, see `server.auth.throttle`."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.auth.throttle import MAX_WAIT_S, AuthThrottle
from server.errors import TooManyAttempts


class AuthThrottleMiddleware:
    """Delays each 401 on every route; beyond MAX_WAIT_S it sends a 429 instead."""

    def __init__(self, app: ASGIApp, *, throttle: AuthThrottle) -> None:
        self._app = app
        self._throttle = throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        replaced = False

        async def send_delayed(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 401:
                wait_s = self._throttle.fail((scope.get("client") or ("",))[0])
                if wait_s is None:
                    replaced = True
                    refusal = error_response(TooManyAttempts(retry_after_s=MAX_WAIT_S), scope["path"])
                    await refusal(scope, receive, send)
                    return
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            if not replaced:
                await send(message)

        await self._app(scope, receive, send_delayed)
