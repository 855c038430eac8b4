"""A stream that nobody takes is merged to outputs of a bounded size, which say the same as one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from vllm import envs
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import async_llm
from vllm.v1.engine.output_processor import RequestOutputCollector

from server.engine.rendering import output_collector
from server.engine.rendering.output_collector import MERGED, BoundedOutputCollector


def output(token: int, *, index: int = 0, logprobs: int = 0, finished: bool = False) -> RequestOutput:
    rows: Any = [{token + i: Logprob(-1.0) for i in range(logprobs)}] if logprobs else None
    part = CompletionOutput(index, f"<{token}>", [token], None, rows)
    return RequestOutput("r", None, [1], None, [part], finished)


def collector(kind: RequestOutputKind = RequestOutputKind.DELTA) -> BoundedOutputCollector:
    return BoundedOutputCollector(kind, "r")


async def taken(queue: BoundedOutputCollector) -> list[RequestOutput]:
    outputs = [await queue.get()]
    while not outputs[-1].finished:
        outputs.append(queue.get_nowait() or await queue.get())
    return outputs


@pytest.mark.parametrize("logprobs", [0, 20])
async def test_nothing_is_lost_and_no_output_is_large(logprobs: int) -> None:
    queue = collector()
    for token in range(1000):
        queue.put(output(token, logprobs=logprobs, finished=token == 999))
    outputs = await taken(queue)
    parts = [each.outputs[0] for each in outputs]
    assert [token for part in parts for token in part.token_ids] == list(range(1000))
    assert "".join(part.text for part in parts) == "".join(f"<{token}>" for token in range(1000))
    assert max(len(part.token_ids) for part in parts) == MERGED // (1 + logprobs)
    assert queue.get_nowait() is None and not queue.ready.is_set()


async def test_a_stream_that_is_taken_has_each_output_alone() -> None:
    queue = collector()
    for token in range(3):
        queue.put(output(token))
        assert (await queue.get()).outputs[0].token_ids == [token]


async def test_the_choices_of_a_request_stay_apart() -> None:
    queue = collector()
    for token in range(600):
        queue.put(output(token, index=token % 2, finished=token == 599))
    found: dict[int, list[int]] = {0: [], 1: []}
    for result in await taken(queue):
        for part in result.outputs:
            found[part.index] += part.token_ids
    assert found == {0: list(range(0, 600, 2)), 1: list(range(1, 600, 2))}


async def test_an_error_comes_before_what_waits() -> None:
    queue = collector()
    for token in range(1000):
        queue.put(output(token))
    queue.put(ValueError("gone"))
    with pytest.raises(ValueError, match="gone"):
        await queue.get()
    assert queue.get_nowait() is None


async def test_a_whole_answer_is_merged_as_before() -> None:
    queue = collector(RequestOutputKind.FINAL_ONLY)
    for index in range(3):
        queue.put(output(7, index=index, finished=index == 2))
    assert [part.index for part in (await queue.get()).outputs] == [0, 1, 2]


@pytest.fixture
def untouched() -> Iterator[None]:
    before = async_llm.RequestOutputCollector
    yield
    vars(async_llm).update(RequestOutputCollector=before)
    vars(envs).pop("VLLM_V1_OUTPUT_PROC_CHUNK_SIZE", None)


def test_vllm_uses_them(untouched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that are looked up, and what the subclass overrides."""
    monkeypatch.setenv("VLLM_V1_OUTPUT_PROC_CHUNK_SIZE", "99")
    output_collector.install()
    assert envs.VLLM_V1_OUTPUT_PROC_CHUNK_SIZE == 99  # the operator's
    monkeypatch.delenv("VLLM_V1_OUTPUT_PROC_CHUNK_SIZE")
    output_collector.install()
    assert envs.VLLM_V1_OUTPUT_PROC_CHUNK_SIZE == 32
    source = inspect.getsource(async_llm.AsyncLLM)
    assert (
        "RequestOutputCollector(params.output_kind" in source
        and "envs.VLLM_V1_OUTPUT_PROC_CHUNK_SIZE" in source
    )
    public = {name for name, value in vars(RequestOutputCollector).items() if inspect.isfunction(value)}
    assert public == {"__init__", "__del__", "put", "get", "get_nowait", "close"}
    for use in ("self.output = output", "self.output.add(output, aggregate=self.aggregate)"):
        assert use in inspect.getsource(RequestOutputCollector.put)
