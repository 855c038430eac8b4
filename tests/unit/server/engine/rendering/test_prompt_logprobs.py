"""Prompt logprobs that are read later and in slices are those that vLLM reads at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from vllm.logprobs import create_prompt_logprobs
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsTensors

from server.engine.rendering import prompt_logprobs
from server.engine.rendering.prompt_logprobs import UnreadLogprobs

WIDTH = 4


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = LogprobsProcessor._update_prompt_logprobs
    prompt_logprobs.install()
    yield
    LogprobsProcessor._update_prompt_logprobs = before


def tensors(rows: int, first: int = 0) -> LogprobsTensors:
    ids = torch.arange(first, first + rows * WIDTH).reshape(rows, WIDTH)
    return LogprobsTensors(ids, -ids.float() / 8, torch.arange(rows) + first)


def processor() -> LogprobsProcessor:
    return LogprobsProcessor(None, None, create_prompt_logprobs(False), None, None, WIDTH - 1)


def as_vllm_reads(*parts: LogprobsTensors) -> Any:
    at_once = processor()
    for part in parts:
        prompt_logprobs._read(at_once, part)
    return at_once.prompt_logprobs


async def test_a_large_step_is_read_later() -> None:
    parts = (tensors(3), tensors(500, 50), tensors(2, 9000))
    later = processor()
    for part in parts:
        later._update_prompt_logprobs(part)
    rows = later.prompt_logprobs
    assert isinstance(rows, UnreadLogprobs) and len(rows) == 1 + 3
    await rows.complete()
    assert list(rows) == as_vllm_reads(*parts) and later.prompt_logprobs is rows
    await rows.complete()
    assert len(rows) == 1 + 505


async def test_what_was_popped_is_completed_and_the_processor_stays_as_it_is() -> None:
    later = processor()
    later._update_prompt_logprobs(tensors(500))
    popped: Any = later.pop_prompt_logprobs()
    await popped.complete()
    assert list(popped) == as_vllm_reads(tensors(500)) and later.prompt_logprobs == []


async def test_the_loop_runs_between_the_slices() -> None:
    later = processor()
    later._update_prompt_logprobs(tensors(1000))
    rows: Any = later.prompt_logprobs
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await rows.complete()
    counting.cancel()
    assert turns >= 1000 * WIDTH // prompt_logprobs.SLICE


def test_a_small_step_is_read_at_once() -> None:
    small = processor()
    small._update_prompt_logprobs(tensors(5))
    assert not isinstance(small.prompt_logprobs, UnreadLogprobs) and small.prompt_logprobs == as_vllm_reads(
        tensors(5)
    )
