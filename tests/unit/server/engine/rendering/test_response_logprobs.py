"""Tokens without text keep their log-probabilities in a stream; the token that ends an answer has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.outputs import CompletionOutput, RequestOutput

from server.engine.rendering.response_logprobs import contexts_with_all_logprobs, without_end_token


def output(text: str, *ids: int, finish: str | None = None, stop: Any = None, logprobs: bool = True) -> Any:
    rows: Any = [{token: None} for token in ids] if logprobs else None
    return CompletionOutput(0, text, list(ids), None, rows, finish_reason=finish, stop_reason=stop)


async def contexts(*outputs: Any) -> AsyncGenerator[Any]:
    context = SimpleNamespace(last_output=None)  # vLLM's, too, is one object
    for each in outputs:
        context.last_output = RequestOutput(
            "a", "", [1], None, [each], finished=each.finish_reason is not None
        )
        yield context


async def streamed(*outputs: Any) -> list[tuple[str, list[int], int | None]]:
    found = []
    async for context in contexts_with_all_logprobs(contexts(*outputs)):
        (each,) = context.last_output.outputs
        found.append((each.text, list(each.token_ids), None if each.logprobs is None else len(each.logprobs)))
    return found


async def test_pieces_of_a_character_come_with_it() -> None:
    pieces = [output("a", 1), output("", 2), output("", 3), output("日b", 4, 5), output("", 6, finish="stop")]
    assert await streamed(*pieces) == [("a", [1], 1), ("日b", [2, 3, 4, 5], 4), ("", [6], 1)]
    assert await streamed(output("", 2), output("", 3, finish="length")) == [("", [2, 3], 2)]
    without = [output("", 2, logprobs=False), output("a", 3, logprobs=False)]
    assert await streamed(*without) == [("", [2], None), ("a", [3], None)]


@pytest.mark.parametrize(
    ("whole", "ids"),
    [
        (output("ab", 1, 2, 9, finish="stop"), [1, 2]),
        (output("ab", 1, 2, 9, finish="stop", stop=9), [1, 2]),
        (output("ab", 1, 2, finish="length"), [1, 2]),
        (output("a", 1, 2, finish="stop", stop="b"), [1, 2]),
        (output("ab", 1, 2, 9, finish="stop", logprobs=False), [1, 2, 9]),
    ],
)
def test_the_token_that_ends_an_answer(whole: Any, ids: list[int]) -> None:
    found = without_end_token(whole)
    assert list(found.token_ids) == ids
    assert found.logprobs is None or len(found.logprobs) == len(ids)
