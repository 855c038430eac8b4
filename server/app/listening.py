"""A listening process: socket, signals, number of open files, and uvicorn without signal handlers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from server.app.http_protocol import bounded
from server.app.tls import Certificate
from server.config.settings import Settings
from server.errors import SettingsError

MAX_OPEN_FILES = 65536


def raise_file_limit() -> None:
    """Allow up to MAX_OPEN_FILES open connections; idle clients soon use up a shell's usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, because this module ends the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def http_config(
    app: ASGIApp, settings: Settings, certificate: Certificate | None, grace_s: float
) -> uvicorn.Config:
    """uvicorn's configuration.

    Args:
        app: the application.
        settings: whose `read_timeout_s` bounds the head of a request.
        certificate: for HTTPS; renewed ones are used without a restart.
        grace_s: how long uvicorn waits for requests at its end; they have been drained by then.
    """
    return uvicorn.Config(
        app,
        http=bounded(settings.read_timeout_s),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(grace_s),
        server_header=False,
        ssl_context_factory=(lambda config, default: certificate.context) if certificate else None,
    )


class StopSignals:
    """Handles signals: the first requests a clean shutdown, the second an immediate one."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)


def listen(host: str, port: int) -> socket.socket:
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


def listening_url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
