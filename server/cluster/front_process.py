"""The process of a front: it listens, relays, and ends when its running answers have ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from server.app import tls
from server.app.listening import HttpServer, StopSignals, http_config, listen, listening_url, wait_for_event
from server.cluster.front import Chooser, Front
from server.cluster.relay import RelayMetrics
from server.config.settings import Settings

logger = logging.getLogger("loragate.front")

_KEEP_ALIVE_S = 30.0
_READ_BUFFER_BYTES = 1 << 20
_POLL_S = 0.05
#: uvicorn's own wait at the end; the requests have been drained by then.
_GRACE_S = 5.0


async def run_front(settings: Settings, make_chooser: Callable[[], Chooser]) -> None:
    """Relay requests until SIGTERM or SIGINT and until the running ones have ended."""
    certificate = tls.Certificate.of(settings)
    listener = listen(settings.host, settings.port)
    stop = StopSignals()
    async with _client() as http:
        chooser = make_chooser()
        front = Front(
            chooser, http, settings.max_body_bytes, RelayMetrics(f"{socket.gethostname()}-{os.getpid()}")
        )
        server = HttpServer(http_config(front, settings, certificate, _GRACE_S))
        serving = asyncio.create_task(server.serve([listener]), name="front")
        renewing = asyncio.create_task(certificate.watch(), name="certificate") if certificate else None
        connecting = asyncio.create_task(chooser.connect(), name="connecting")
        logger.info("listening", extra={"url": listening_url(listener, "https" if certificate else "http")})
        stopping = asyncio.create_task(stop.first.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        listener.close()
        await _drained(front, stop, settings.shutdown_timeout)
        server.should_exit = True
        await serving
        for task in (renewing, stopping, connecting):
            if task is not None:
                task.cancel()
        await chooser.aclose()
    logger.info("stopped")


async def _drained(front: Front, stop: StopSignals, timeout_s: float) -> None:
    """Return when no request runs, after the timeout, or at the second signal."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while front.in_flight and not stop.second.is_set() and asyncio.get_running_loop().time() < deadline:
        await wait_for_event(stop.second, _POLL_S)


@asynccontextmanager
async def _client() -> AsyncIterator[aiohttp.ClientSession]:
    """Unlimited connections without a total time: answers may take long."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        read_bufsize=_READ_BUFFER_BYTES,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),  # cookies are the callers' own: none may reach another one
    ) as session:
        yield session
