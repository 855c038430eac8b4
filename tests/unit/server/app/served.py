"""The application of `composed` behind a socket, on a thread of its own, for clients that speak real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from tests.unit.server.app.composed import Composed, compose


async def _nothing(composed: Composed) -> None:
    return None


@contextlib.contextmanager
def serve(
    folder: Path,
    seed: Callable[[Composed], Awaitable[None]] = _nothing,
    *,
    port: int = 0,
    **settings: Any,
) -> Iterator[str]:
    """The URL of a running application; `seed` fills it before, and it is stopped at the end.

    In settings that are text, `{url}` stands for that URL.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = {
            name: value.replace("{url}", url) if isinstance(value, str) else value
            for name, value in settings.items()
        }
        running: list[uvicorn.Server] = []
        ready = threading.Event()

        async def run() -> None:
            async with compose(folder, **settings) as composed:
                await seed(composed)
                config = uvicorn.Config(composed.app, lifespan="off", log_config=None, ws="none")
                running.append(uvicorn.Server(config))
                ready.set()
                await running[0].serve([listener])

        thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        thread.start()
        try:
            assert ready.wait(60), "the application does not start"
            yield url
        finally:
            running[0].should_exit = True
            thread.join(30)
