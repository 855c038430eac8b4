"""Puts the text that follows the first tool call behind the calls, in whole answers and streams alike.

A chat has one content, which this text belongs to. The Responses and Messages APIs have a list, in which it stands as
an item of its own at the end. vLLM's records of a whole answer have no place for it (`collecting` keeps it beside
them), and none of its deltas can say that content follows a call (`ending_apart` lets it have the last delta alone).

Leans on (vLLM 0.32): RequestOutput, CompletionOutput; SimpleContext.last_output.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextvars import ContextVar
from copy import copy
from dataclasses import replace
from typing import Any

_collected: ContextVar[list[str] | None] = ContextVar("loragate_text_after_calls", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[str]]:
    """Within it, `collect` takes the text that follows the calls of a whole answer."""
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def collect(text: str) -> bool:
    """Whether the text was taken; otherwise it belongs to the content."""
    found = _collected.get()
    if found is None:
        return False
    if text:
        found.append(text)
    return True


async def ending_apart(results: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """The outputs of a streamed request; one that ends with a text is followed by an end without text."""
    async for result in results:
        for part in _parts(result):
            yield part


async def contexts_ending_apart(contexts: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """The same for the contexts of the Responses handler, whose `last_output` is the output."""
    async for context in contexts:
        if context is None or context.last_output is None:
            yield context
            continue
        for part in _parts(context.last_output):
            context.last_output = part
            yield context


def _parts(result: Any) -> list[Any]:
    if not any(_ends_with_text(output) for output in result.outputs):
        return [result]
    before, end = copy(result), copy(result)
    before.finished = False
    before.outputs = [
        replace(output, finish_reason=None, stop_reason=None) if _ends_with_text(output) else output
        for output in result.outputs
    ]
    end.outputs = [
        replace(output, text="", token_ids=[], logprobs=None if output.logprobs is None else [])
        for output in result.outputs
        if _ends_with_text(output)
    ]
    return [before, end]


def _ends_with_text(output: Any) -> bool:
    return output.finish_reason is not None and bool(output.text)
