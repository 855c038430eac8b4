"""Ends the work for a request when its client has left or the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from server.errors import Draining

_endings: WeakKeyDictionary[asyncio.Event, asyncio.Task[Any]] = WeakKeyDictionary()


async def run_while_connected(
    receive: Receive, ending: asyncio.Event, work: Coroutine[Any, Any, None]
) -> None:
    """Run `work` until it is done, the client disconnects, or the server ends.

    Raises:
        ClientDisconnect: the client disconnected; `work` was cancelled and has cleaned up.
        Draining: the server ends; `work` was cancelled and has cleaned up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    closing = _ended(ending)
    try:
        await asyncio.wait({working, watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        elif watching.done():
            raise ClientDisconnect
        else:
            raise Draining(retry_after_s=1)
    finally:
        watching.cancel()  # it ends in the next turn of the event loop, and nothing has to wait for that
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def _ended(ending: asyncio.Event) -> asyncio.Task[Any]:
    """The one task that waits for the end of the server, for all requests: each task delays the first token."""
    task = _endings.get(ending)
    if task is None or task.cancelled():
        task = _endings[ending] = asyncio.ensure_future(ending.wait())
    return task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
