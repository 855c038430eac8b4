"""The process: one event loop, one listening socket, signals, and the order of the shutdown.

SIGTERM or SIGINT: /ready answers 503 → `--drain-delay-s` → new requests get 503 → running requests end, up to
`--shutdown-timeout` → the rest are aborted → engine and database stop, exit 0. A second signal skips the waits. After
`--drain-delay-s` and `--shutdown-timeout` a stop takes at most about ten seconds, whatever the engine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NoReturn

import uvicorn
import uvloop

from adapters.errors import AdapterError
from server.app import tls
from server.app.banner import banner
from server.app.composition import Server, open_server
from server.app.listening import (
    HttpServer,
    StopSignals,
    http_config,
    listen,
    listening_url,
    raise_file_limit,
    wait_for_event,
)
from server.app.routes import make_app
from server.app.start_progress import StartProgress
from server.config.logs import configure
from server.config.service_links import ignored_service_links
from server.config.settings import Settings
from server.engine.supervisor import EngineStartFailed, State
from server.errors import LoragateError

logger = logging.getLogger("loragate")

ABORT_GRACE_S = 5.0
START_GRACE_S = 0.5
_PROGRESS_INTERVAL_S = 0.1
#: So long a thread that computes in Python, such as an adapter's checks, keeps the interpreter's lock while the event
#: loop waits for it, with each of the ten or more turns that a short request needs (Python's own: 5 ms).
_SWITCH_INTERVAL_S = 0.001


def run(settings: Settings, runner: Executor, progress: StartProgress) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        settings: what to serve.
        runner: the one thread that starts engines.
        progress: tells a person at a terminal what the start does.
    """
    configure(settings.log_format, settings.log_level, settings.replica_name)
    if ignored := ignored_service_links():
        logger.info("service-link variables are ignored", extra={"variables": ignored})
    raise_file_limit()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        return uvloop.run(_serve(settings, runner, progress))
    except (LoragateError, AdapterError) as error:
        progress.end()
        print(f"loragate: {error}", file=sys.stderr)
        return 1


def leave(code: int, runner: Executor) -> NoReturn:
    """End the process, also while an engine is being started.

    The start of a large model takes minutes, and Python would wait for its thread. The kernel ends the processes of
    an engine together with the thread that starts it.

    Raises:
        SystemExit: no engine is being started.
    """
    try:
        runner.submit(lambda: None).result(START_GRACE_S)
    except TimeoutError:
        logger.info("The engine that was being started is ended.")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


async def _serve(settings: Settings, runner: Executor, progress: StartProgress) -> int:
    progress.stage("Opening the database")
    certificate = tls.Certificate.of(settings)
    listener = listen(settings.host, settings.port)
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})  # of --port 0: the one it got
    async with open_server(settings, runner) as server:
        http = HttpServer(_http_config(server, settings, certificate))
        stop = StopSignals()
        serving = asyncio.create_task(http.serve([listener]), name="http")
        supervising = asyncio.create_task(server.engine.supervisor.run(), name="supervisor")
        renewing = asyncio.create_task(certificate.watch(), name="certificate") if certificate else None
        url = listening_url(listener, "https" if certificate else "http")
        if not progress.is_shown:  # on a terminal, the banner says it when requests are answered
            logger.info("listening", extra={"url": url})
        announcing = asyncio.create_task(_announce(server, url, progress), name="start-progress")
        waiting = asyncio.create_task(stop.first.wait())
        await asyncio.wait({serving, supervising, waiting}, return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        if supervising.done() and not stop.first.is_set():
            await _close(http, serving)
            await supervising  # raises: the first start failed
            raise EngineStartFailed
        await _drain(server, stop, settings)
        await _close(http, serving)
        supervising.cancel()
        if renewing:
            renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartFailed):
            await supervising
    logger.info("stopped")
    return 0


async def _announce(server: Server, url: str, progress: StartProgress) -> None:
    """Show the stages of the engine's start, and the banner at its end."""
    if not progress.is_shown:
        return
    progress.stage("Starting the engine (weights, KV cache, a first step)")
    supervisor = server.engine.supervisor
    with _quiet(
        "loragate.supervisor"
    ):  # the banner says what its line would say in the middle of a stage's line
        while supervisor.state is State.STARTING:
            if supervisor.engine is not None:
                progress.stage("Loading the adapters")
            await asyncio.sleep(_PROGRESS_INTERVAL_S)
    progress.end()
    if supervisor.state is State.READY:
        has_keys = server.settings.demo or bool(await server.registry.keys.list())
        print(banner(server.settings, url, has_keys=has_keys), flush=True)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the INFO lines of a logger."""
    # A filter and not a level: `dictConfig`, which vLLM calls too, resets the levels of child loggers.
    quieted = logging.getLogger(name)
    quieted.addFilter(_above_info)
    try:
        yield
    finally:
        quieted.removeFilter(_above_info)


def _above_info(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO


def _http_config(server: Server, settings: Settings, certificate: tls.Certificate | None) -> uvicorn.Config:
    app = make_app(server)
    # Made at the first request for it otherwise, within 0.1 s of the event loop.
    asyncio.get_running_loop().run_in_executor(None, app.openapi)
    return http_config(app, settings, certificate, ABORT_GRACE_S)


async def _drain(server: Server, stop: StopSignals, settings: Settings) -> None:
    """Refuse new requests, wait up to the timeout for the running ones, and abort the rest."""
    requests = server.requests
    logger.info("draining", extra={"running": requests.in_flight})
    server.readiness.leaving = True
    await wait_for_event(stop.second, settings.drain_delay_s)
    server.engine.supervisor.drain()
    deadline = asyncio.get_running_loop().time() + settings.shutdown_timeout
    while requests.in_flight and not stop.second.is_set() and asyncio.get_running_loop().time() < deadline:
        await wait_for_event(stop.second, 0.05)
    if requests.in_flight:
        logger.warning("aborting the requests that still run", extra={"running": requests.in_flight})
    # Also for requests that do not count as running yet: they would wait for an engine that ends.
    requests.ending.set()
    deadline = asyncio.get_running_loop().time() + ABORT_GRACE_S
    while requests.in_flight and not stop.second.is_set() and asyncio.get_running_loop().time() < deadline:
        await wait_for_event(stop.second, 0.05)


async def _close(http: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    http.should_exit = True
    await serving
