"""CORS: pages of the allowed origins may call models from a browser; the managing routes stay closed to all pages."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from sampling.endpoints import Endpoint
from server.request import batch
from server.request.tokenization import TokenRoute

#: What a page may call. Not: the admin API, the console, metrics, health, and the loading of adapters.
_PATHS = {
    batch.PATH,
    *(each.path for each in (*Endpoint, *TokenRoute)),
    "/v1/models",
    "/v1/presets",
    "/v1/feedback",
}
_BELOW = "/v1/models/"


class CorsMiddleware:
    """Answers preflight requests, and adds the headers to every answer: errors and streams as well.

    It never allows a browser's credentials (cookies, client certificates): a page must bring the key itself.

    Args:
        app: gets all other requests.
        origins: as browsers send them; "*" stands for all.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("*",),
            # A page from the internet asks for it when the server is in the browser's own network.
            allow_private_network="*" not in origins,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        is_open = scope["type"] == "http" and (path in _PATHS or path.startswith(_BELOW))
        await (self._open if is_open else self._app)(scope, receive, send)
