"""Runs blocking work in a thread, and waits for its end also after a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(
    work: Callable[[], T], *, stop: Callable[[], None] | None = None, executor: Executor | None = None
) -> T:
    """Run blocking work in a thread; after a cancellation, call `stop` and wait until the work has ended.

    So the caller can clean up, because nothing is written any more.
    """
    task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(executor, work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # marks it as retrieved; the caller gets the cancellation
        raise
