"""A generation whose answer has a form waits until the form's grammar is prepared, and holds it until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any

from server.request.context import RequestContext

#: Prepares the grammar of a generation's parameters, and keeps it as long as the context is open.
Prepare = Callable[[RequestContext, Any], AbstractAsyncContextManager[None]]


def start(held: AbstractAsyncContextManager[None]) -> asyncio.Task[AsyncExitStack]:
    """Start to prepare a grammar. The stack that results holds it; `end` takes the task, whatever becomes of it."""
    return asyncio.ensure_future(_entered(held))


async def _entered(held: AbstractAsyncContextManager[None]) -> AsyncExitStack:
    """Enter a context that the returned stack leaves."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(held)
        return stack.pop_all()


async def stream_after(
    preparation: asyncio.Task[AsyncExitStack], generate: Callable[[], AsyncGenerator[Any]]
) -> AsyncGenerator[Any]:
    """The stream of a generation, once its grammar is prepared. Raises: what the preparation raised."""
    await asyncio.shield(preparation)
    async with aclosing(generate()) as stream:
        async for output in stream:
            yield output


async def end(preparation: asyncio.Task[AsyncExitStack]) -> None:
    """End the preparation of a grammar, or give the grammar back; its error was raised where it was awaited."""
    preparation.cancel()
    await asyncio.wait([preparation])
    if not preparation.cancelled() and preparation.exception() is None:
        await preparation.result().aclose()
