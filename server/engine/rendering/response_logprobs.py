"""Gives streamed responses the log-probabilities of all tokens of their text, and whole ones no others.

vLLM's Responses handler drops the log-probabilities of a token that shows no text yet, such as the first piece of a
character that is split over tokens. In whole responses it has those of the token that ends the answer, too, which is
no text.
Leans on (vLLM 0.32): SimpleContext.last_output, RequestOutput, CompletionOutput.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from copy import copy
from dataclasses import replace
from typing import Any


async def contexts_with_all_logprobs(contexts: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """The contexts of a streamed response; outputs without text are joined to the next one."""
    ids: list[int] = []
    logprobs: list[Any] = []
    async for context in contexts:
        result = None if context is None else context.last_output
        if result is None or not result.outputs or result.outputs[0].logprobs is None:
            yield context
            continue
        output = result.outputs[0]
        ids += output.token_ids
        logprobs += output.logprobs
        if not output.text and output.finish_reason is None:
            continue
        context.last_output = copy(result)
        context.last_output.outputs = [replace(output, token_ids=ids, logprobs=logprobs)]
        yield context
        ids, logprobs = [], []


def without_end_token(output: Any) -> Any:
    """A whole output without the token that ended it, which stands in no text."""
    if output.logprobs is None or output.finish_reason != "stop" or isinstance(output.stop_reason, str):
        return output
    return replace(output, token_ids=output.token_ids[:-1], logprobs=output.logprobs[:-1])
