"""A front before HTTP servers of the test's own: `serving(handler, …)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
from aiohttp import web

from server.cluster.front import Chosen, Front
from server.cluster.relay import NoReplica, RelayMetrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Servers:
    """Chooses the first server that has not failed; `asked` is what the front wanted to know."""

    urls: list[str] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    held: int = 0

    @asynccontextmanager
    async def choose(
        self, adapter: str | None, session: str | None, failed: frozenset[str]
    ) -> AsyncIterator[Chosen]:
        self.asked.append((adapter, session))
        left = [Chosen(str(place), url) for place, url in enumerate(self.urls) if str(place) not in failed]
        if not left:
            raise NoReplica
        self.held += 1
        try:
            yield left[0]
        finally:
            self.held -= 1

    def all(self) -> list[Chosen]:
        return [Chosen(f"r{place}", url, f"s{place}") for place, url in enumerate(self.urls)]

    async def connect(self) -> None: ...

    async def aclose(self) -> None: ...


@asynccontextmanager
async def serving(*handlers: Handler, max_body_bytes: int = 1 << 20) -> AsyncIterator[tuple[Any, Servers]]:
    """A client of a front before one server per handler."""
    servers, runners = Servers(), []
    for handler in handlers:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        servers.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        transport = httpx.ASGITransport(
            Front(servers, http, max_body_bytes, RelayMetrics("f")), client=("10.0.0.9", 7)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            yield client, servers
    for runner in runners:
        await runner.cleanup()
    assert servers.held == 0
