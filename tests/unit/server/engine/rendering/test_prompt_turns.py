"""Where vLLM's handlers call the renderer: rendered prompts are passed on, small ones take turns by tenant."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.renderers import base

from server.engine.rendering.prompt import RenderedPrompt
from server.engine.rendering.prompt_turns import (
    SHORT_BYTES,
    PromptTurns,
    ShortPrompts,
    install,
    rendering_for,
)
from server.request.body import Body

INPUT = {"type": "token", "prompt_token_ids": [1, 70_000, 3], "prompt": "abc", "arrival_time": 1.5}
LAST = {"role": "user", "content": "big"}


def test_a_rendered_prompt_survives_the_way_between_processes() -> None:
    rendered = RenderedPrompt.of(
        [{"role": "system", "content": "s"}, LAST], [INPUT, {**INPUT, "prompt": "d"}]
    )
    assert rendered.conversation == [LAST]
    assert rendered.engine_inputs() == [INPUT, {**INPUT, "prompt": "d"}]


class Renderer:
    """Notes who was rendered for, and waits until it may go on."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.go = asyncio.Semaphore(0)
        self._executor = SimpleNamespace(submit=None)

    async def render_chat_async(self, conversations: list[Any], *_: Any) -> Any:
        return [conversations[0]], [await self.render_cmpl_async(conversations)]

    async def render_cmpl_async(self, prompts: list[Any], **_: Any) -> Any:
        self.began.append(prompts[0])
        await self.go.acquire()
        return prompts


async def test_what_a_worker_rendered_is_not_rendered_again() -> None:
    renderer: Any = Renderer()
    install(renderer)
    with rendering_for("acme", Body({}, rendered=RenderedPrompt.of([LAST], [INPUT]))):
        assert await renderer.render_chat_async([["x"]], None, None) == ([[LAST]], [INPUT])
        assert await renderer.render_cmpl_async(["x"], None) == [INPUT]
    assert renderer.began == []
    renderer.go.release()
    assert await renderer.render_cmpl_async(["x"]) == ["x"]


async def test_many_prompts_of_one_tenant_do_not_queue_before_anothers() -> None:
    renderer: Any = Renderer()
    install(renderer)

    async def ask(tenant: str) -> None:
        with rendering_for(tenant):
            await renderer.render_cmpl_async([tenant])

    many = [asyncio.create_task(ask("acme")) for _ in range(50)]
    await asyncio.sleep(0)
    one = asyncio.create_task(ask("globex"))
    await asyncio.sleep(0.01)
    assert renderer.began == ["acme", "acme", "globex"]
    for _ in range(51):
        renderer.go.release()
    await asyncio.gather(one, *many)
    assert renderer.began.count("acme") == 50


async def test_a_caller_that_leaves_gives_its_turn_back() -> None:
    turns = PromptTurns(at_once=1, per_tenant=1)
    entered: list[str] = []

    async def enter(tenant: str) -> None:
        async with turns.turn(tenant):
            entered.append(tenant)
            await asyncio.sleep(60)

    inside, waiting, last = (asyncio.create_task(enter(tenant)) for tenant in ("a", "b", "c"))
    await asyncio.sleep(0.01)
    assert entered == ["a"]
    for leaving in (waiting, inside):
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    await asyncio.sleep(0.01)
    assert entered == ["a", "c"]
    last.cancel()
    await asyncio.gather(last, return_exceptions=True)
    async with turns.turn("a"):
        pass


def test_nothing_is_set_outside_of_a_request() -> None:
    with rendering_for("acme", Body({}, rendered=RenderedPrompt.of([], [INPUT]))):
        pass
    renderer: Any = SimpleNamespace(
        render_chat_async=None, render_cmpl_async=None, _executor=SimpleNamespace(submit=None)
    )
    install(renderer)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_short_prompt_is_rendered_at_once_and_any_other_in_the_thread(thread: ThreadPoolExecutor) -> None:
    jobs, here = ShortPrompts(thread.submit), threading.get_ident()
    for size_bytes, is_here in ((SHORT_BYTES, True), (SHORT_BYTES + 1, False), (None, False)):
        with rendering_for("acme", Body({}, size_bytes=size_bytes)):
            assert (jobs.submit(threading.get_ident).result() == here) is is_here
    assert jobs.submit(threading.get_ident).result() != here


def test_a_short_prompt_waits_for_the_thread_that_uses_the_tokenizer(thread: ThreadPoolExecutor) -> None:
    jobs, go = ShortPrompts(thread.submit), threading.Event()
    long = jobs.submit(go.wait)
    with rendering_for("acme", Body({}, size_bytes=1)):
        short = jobs.submit(threading.get_ident)
        assert not short.done()
        go.set()
        assert long.result() and short.result() != threading.get_ident()


def test_the_error_of_a_short_prompt_is_that_of_its_job(thread: ThreadPoolExecutor) -> None:
    with rendering_for("acme", Body({}, size_bytes=1)), pytest.raises(ValueError, match="invalid literal"):
        ShortPrompts(thread.submit).submit(int, "x")


async def test_the_steps_of_one_prompt_are_no_tasks() -> None:
    """vLLM gathers each step of all prompts; of one prompt that is eleven turns of the event loop for nothing."""
    install(Renderer())
    tasks: list[set[Any]] = []

    async def step(value: int) -> int:
        tasks.append(asyncio.all_tasks())
        return value

    assert await base.asyncio.gather(step(1)) == [1]
    assert tasks[0] == asyncio.all_tasks()
    assert await base.asyncio.gather(step(1), step(2)) == [1, 2]
    assert len(tasks[2]) > len(tasks[0])
    with pytest.raises(ZeroDivisionError):
        await base.asyncio.gather(_fails())
    assert base.asyncio.sleep is asyncio.sleep


async def _fails() -> None:
    raise ZeroDivisionError
