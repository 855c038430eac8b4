"""Stands where vLLM's handlers call its renderer, in the API process.

A prompt that a worker has rendered is returned as it is. Any other is small: vLLM renders it in its one thread, and
tenants take turns there, because the thread itself takes the calls in the order of their arrival. A short one is
rendered at once while that thread is idle: a thread waits up to 5 ms for Python's lock while the event loop is busy,
twice for each prompt, and the prompts of a burst wait for one another. And it is rendered without a task for each of
three steps, whose starts and ends take eleven turns of the event loop.
Leans on (vLLM 0.32): BaseRenderer.render_chat_async and render_cmpl_async, which all handlers look up on the renderer
at each call; BaseRenderer._executor, whose `submit` runs the chat template and the tokenizer; vllm.renderers.base,
which gathers the steps of all prompts of a request. /detokenize uses neither of the coroutines; it is small, or in a
worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from vllm.renderers import base

from server.engine.rendering.prompt import RenderedPrompt
from server.engine.workers.job_queue import JobQueue
from server.request.body import Body

#: Small prompts that are rendered at once, and of one tenant. More than one, so that the thread is never idle.
_AT_ONCE = 4
_PER_TENANT = 2
#: Small prompts of one tenant that may wait; the open connections bound them.
_WAITING_PER_TENANT = 1 << 20

#: Bytes of a body whose prompt takes less than 3 ms on the event loop.
SHORT_BYTES = 4096

_tenant: ContextVar[str] = ContextVar("loragate_rendering_tenant", default="")
_rendered: ContextVar[RenderedPrompt | None] = ContextVar("loragate_rendered_prompt", default=None)
_is_short: ContextVar[bool] = ContextVar("loragate_prompt_is_short", default=False)


@contextlib.contextmanager
def rendering_for(tenant: str, body: Body | None = None) -> Iterator[None]:
    """Within it, the renderer works for this tenant, or returns what a worker has rendered of the body."""
    is_short = body is not None and body.size_bytes is not None and body.size_bytes <= SHORT_BYTES
    tokens = _tenant.set(tenant), _rendered.set(body.rendered if body else None), _is_short.set(is_short)
    try:
        yield
    finally:
        _tenant.reset(tokens[0])
        _rendered.reset(tokens[1])
        _is_short.reset(tokens[2])


class ShortPrompts:
    """Runs the jobs of short prompts at once, and all others in the renderer's thread.

    NOTE: only while that thread is idle: a tokenizer that two threads use fails with "Already borrowed".
    """

    def __init__(self, submit: Callable[..., Future[Any]]) -> None:
        self._submit = submit
        self._in_thread: set[Future[Any]] = set()

    def submit(self, job: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Replaces `Executor.submit`; the error of a job that runs at once is raised here."""
        if not _is_short.get() or self._in_thread:
            future = self._submit(job, *arguments, **named)
            self._in_thread.add(future)
            future.add_done_callback(self._in_thread.discard)
            return future
        done: Future[Any] = Future()
        done.set_result(job(*arguments, **named))
        return done


class PromptTurns:
    """At most `at_once` callers inside, `per_tenant` of one tenant; those that wait take turns by tenant."""

    def __init__(self, at_once: int = _AT_ONCE, per_tenant: int = _PER_TENANT) -> None:
        self._at_once = self._free = at_once
        self._turns: JobQueue[asyncio.Event] = JobQueue(
            per_tenant=per_tenant, waiting_per_tenant=_WAITING_PER_TENANT
        )

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, *, is_short: bool = False) -> AsyncGenerator[None]:
        """Wait for a turn of this tenant and keep it; a short prompt needs none while nobody waits for one."""
        if is_short and self._free == self._at_once:
            yield
            return
        mine = asyncio.Event()
        self._turns.add(tenant, mine)
        self._grant()
        try:
            await mine.wait()
            yield
        finally:
            if mine.is_set():
                self._turns.done(tenant)
                self._free += 1
                self._grant()
            else:
                self._turns.drop(tenant, mine)

    def _grant(self) -> None:
        while self._free and (turn := self._turns.next()) is not None:
            self._free -= 1
            turn.set()


class _Asyncio:
    """`asyncio`, whose `gather` of a single awaitable makes no task of it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def gather(*awaitables: Awaitable[Any]) -> list[Any]:
        """See `asyncio.gather`."""
        if len(awaitables) == 1:
            return [await awaitables[0]]
        return await asyncio.gather(*awaitables)


def install(renderer: Any) -> None:
    """Let tenants take turns at vLLM's renderer: replace its two coroutines; see the module."""
    vars(base)["asyncio"] = _Asyncio()
    turns = PromptTurns()
    chat, completion = renderer.render_chat_async, renderer.render_cmpl_async
    executor = renderer._executor
    executor.submit = ShortPrompts(executor.submit).submit

    async def render_chat_async(*arguments: Any, **named: Any) -> Any:
        rendered = _rendered.get()
        if rendered is not None:
            return [rendered.conversation], rendered.engine_inputs()
        async with turns.turn(_tenant.get(), is_short=_is_short.get()):
            return await chat(*arguments, **named)

    async def render_cmpl_async(*arguments: Any, **named: Any) -> Any:
        rendered = _rendered.get()
        if rendered is not None:
            return rendered.engine_inputs()
        async with turns.turn(_tenant.get(), is_short=_is_short.get()):
            return await completion(*arguments, **named)

    renderer.render_chat_async = render_chat_async
    renderer.render_cmpl_async = render_cmpl_async
