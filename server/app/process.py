"""The process: one event loop, one listening socket, signals, and the order of the shutdown.

SIGTERM or SIGINT: /ready answers 503 → `--drain-delay-s` → new requests get 503 → running requests end, up to
`--shutdown-timeout` → the rest are aborted → engine and database stop, exit 0. A second signal skips the waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Executor

import uvicorn
import uvloop

from adapters.errors import AdapterError
from server.api.http_protocol import bounded
from server.app.composition import Server, make_app, open_server
from server.config.logs import configure
from server.config.settings import Settings
from server.engine.supervisor import EngineStartFailed
from server.errors import LoragateError, SettingsError

logger = logging.getLogger("loragate")

ABORT_GRACE_S = 5.0
MAX_OPEN_FILES = 65536


def run(settings: Settings, runner: Executor) -> int:
    """Serve until a signal; returns the exit code."""
    configure(settings.log_format, settings.log_level)
    _raise_file_limit()
    try:
        return uvloop.run(_serve(settings, runner))
    except (LoragateError, AdapterError) as error:
        print(f"loragate: {error}", file=sys.stderr)
        return 1


def _raise_file_limit() -> None:
    """Allow up to MAX_OPEN_FILES open connections; idle clients soon use up a shell's usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, because this module ends the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


async def _serve(settings: Settings, runner: Executor) -> int:
    listener = _listen(settings.host, settings.port)
    async with open_server(settings, runner) as server:
        http = _HttpServer(
            uvicorn.Config(
                make_app(server),
                http=bounded(settings.read_timeout_s),
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=75,
                # `_drain` has ended all requests by then; uvicorn need not wait for them again.
                timeout_graceful_shutdown=int(ABORT_GRACE_S),
                server_header=False,
            )
        )
        stop = _Stop()
        serving = asyncio.create_task(http.serve([listener]), name="http")
        supervising = asyncio.create_task(server.engine.supervisor.run(), name="supervisor")
        logger.info("listening", extra={"url": _url(listener)})
        waiting = asyncio.create_task(stop.first.wait())
        await asyncio.wait({serving, supervising, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if supervising.done() and not stop.first.is_set():
            await _close(http, serving)
            await supervising  # raises: the first start failed
            raise EngineStartFailed
        await _drain(server, stop, settings)
        await _close(http, serving)
        supervising.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartFailed):
            await supervising
    logger.info("stopped")
    return 0


class _Stop:
    """Handles signals: the first requests a clean shutdown, the second an immediate one."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _drain(server: Server, stop: _Stop, settings: Settings) -> None:
    """Refuse new requests, wait up to the timeout for the running ones, and abort the rest."""
    requests = server.requests
    logger.info("draining", extra={"running": requests.in_flight})
    server.readiness.leaving = True
    await _until(stop.second, settings.drain_delay_s)
    server.engine.supervisor.drain()
    deadline = asyncio.get_running_loop().time() + settings.shutdown_timeout
    while requests.in_flight and not stop.second.is_set() and asyncio.get_running_loop().time() < deadline:
        await _until(stop.second, 0.05)
    if requests.in_flight:
        logger.warning("aborting the requests that still run", extra={"running": requests.in_flight})
        requests.ending.set()
        while requests.in_flight and not stop.second.is_set():
            await _until(stop.second, 0.05)


async def _until(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)


async def _close(http: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    http.should_exit = True
    await serving


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything slow starts, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"The server cannot listen on {host}:{port} ({error.strerror}); choose another --port."
        ) from error
    listener.listen(2048)
    listener.set_inheritable(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
