"""A completion's choices are built one by one, and are those that vLLM builds at once."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion import serving as chat_serving
from vllm.entrypoints.openai.completion import serving as completion_serving
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.utils.async_utils import merge_async_iterators

from server.engine.rendering import choices
from server.engine.rendering.choices import UnbuiltCompletion, UncheckedChoice, complete, merged


def result(number: int, n: int) -> RequestOutput:
    outputs = [CompletionOutput(i, f"text {number}.{i}", [7, 8], None, None, "stop") for i in range(n)]
    return RequestOutput(f"r{number}", f"prompt {number}", [1, 2, 3], None, outputs, True)


class Handler:
    """vLLM's handler, as far as it builds an answer; it notes how many choices it was asked for at once."""

    system_fingerprint = None
    enable_prompt_tokens_details = enable_per_request_metrics = False

    def __init__(self) -> None:
        self.asked: list[int] = []

    def request_output_to_completion_response(self, results: list[Any], *others: Any) -> Any:
        self.asked.append(sum(len(each.outputs) for each in results))
        build: Any = OpenAIServingCompletion.request_output_to_completion_response
        return build(self, results, *others)

    def _raise_if_error(self, *_: Any) -> None:
        """No answer of these tests failed."""


class State:
    def __init__(self) -> None:
        self.openai_serving_completion = Handler()


@pytest.mark.parametrize("fields", [{}, {"echo": True, "return_token_ids": True}])
async def test_many_choices_are_those_of_one_piece(fields: dict[str, Any]) -> None:
    results = [result(number, 3) for number in range(5)]
    request = CompletionRequest(model="m", prompt=["a"] * 5, n=3, max_tokens=2, **fields)
    metadata: Any = type("Metadata", (), {})()
    others = (request, "cmpl-1", 123, "m", None, metadata)
    at_once = Handler().request_output_to_completion_response(results, *others)
    state: Any = State()
    choices.install(state)
    answer = state.openai_serving_completion.request_output_to_completion_response(results, *others)
    assert isinstance(answer, UnbuiltCompletion) and answer.choices == []
    await complete(answer)
    assert json.loads(answer.model_dump_json()) == json.loads(at_once.model_dump_json())
    assert len(answer.choices) == 15 and max(state.openai_serving_completion.asked) == 1


async def test_few_are_built_at_once() -> None:
    state: Any = State()
    choices.install(state)
    request = CompletionRequest(model="m", prompt="a", n=2, max_tokens=2)
    others = (request, "cmpl-1", 123, "m", None, type("Metadata", (), {})())
    answer = state.openai_serving_completion.request_output_to_completion_response([result(1, 2)], *others)
    assert not isinstance(answer, UnbuiltCompletion) and len(answer.choices) == 2
    await complete(answer)
    assert len(answer.choices) == 2


def test_logprobs_are_written_without_being_validated() -> None:
    rows: Any = [None, {5: Logprob(-0.5, 1, "a")}]
    choice = UncheckedChoice(index=0, text="x", prompt_logprobs=rows)
    assert choice.prompt_logprobs is rows
    written = json.loads(choice.model_dump_json())["prompt_logprobs"]
    assert written == [None, {"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}}]


def test_what_vllm_looks_up() -> None:
    whole, stream = (
        inspect.getsource(getattr(OpenAIServingCompletion, name))
        for name in ("request_output_to_completion_response", "_create_completion")
    )
    assert "CompletionResponseChoice(" in whole and "index=len(choices)" in whole
    assert "merge_async_iterators(*generators)" in stream
    assert "self.request_output_to_completion_response(" in stream
    assert hasattr(completion_serving, "CompletionResponseChoice")
    assert hasattr(chat_serving, "ChatCompletionResponse")


async def numbers(first: int, count: int, *, fails: bool = False) -> AsyncGenerator[int]:
    for number in range(first, first + count):
        await asyncio.sleep(0)
        yield number
    if fails:
        raise ValueError("a stream failed")


@pytest.mark.parametrize("merge", [merged, merge_async_iterators])
async def test_streams_are_merged_as_vllm_does(merge: Any) -> None:
    found = [each async for each in merge(*(numbers(10 * at, at) for at in range(4)))]
    assert sorted(found) == [(at, 10 * at + n) for at in range(4) for n in range(at)]
    with pytest.raises(ValueError, match="a stream failed"):
        _ = [each async for each in merge(numbers(0, 3, fails=True), numbers(5, 50))]


@pytest.mark.parametrize("merge", [merged, merge_async_iterators])
async def test_of_a_stream_that_is_not_taken_one_item_waits(merge: Any) -> None:
    given, closed = [], []

    async def endless(at: int) -> AsyncGenerator[int]:
        try:
            for number in range(1000):
                given.append((at, number))
                yield number
        finally:
            closed.append(at)

    merging = merge(endless(0), endless(1))
    await anext(merging)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(given) <= 4
    await merging.aclose()
    assert sorted(closed) == [0, 1]
