"""Builds the choices of whole completions one by one, with a pause for the event loop after each.

vLLM builds all of them in one piece: a thousand for a list of prompts, each with the ids of its prompt if they are
asked for. It merges their streams at a cost for each item that grows with the number of streams. And it validates the
log-probabilities of a prompt, which it has made itself.
Leans on (vLLM 0.32): OpenAIServingCompletion.request_output_to_completion_response, which `create_completion` calls
for an unstreamed answer; RequestOutput.outputs; CompletionResponse, and CompletionResponseChoice and
ChatCompletionResponse, and `merge_async_iterators`, which the modules of the handlers look up when they use them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from copy import copy
from typing import Any

from pydantic import PrivateAttr, SkipValidation
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion import serving as chat_serving
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion import serving as completion_serving
from vllm.entrypoints.openai.completion.protocol import CompletionResponse, CompletionResponseChoice
from vllm.logprobs import Logprob

from server.engine.rendering.json_pieces import FEW_CHOICES
from server.request.event_loop import pause


class UncheckedChatAnswer(ChatCompletionResponse):
    """vLLM's answer, whose log-probabilities are not validated."""

    prompt_logprobs: SkipValidation[list[dict[int, Logprob] | None] | None] = None


class UncheckedChoice(CompletionResponseChoice):
    """vLLM's choice, whose log-probabilities are not validated."""

    prompt_logprobs: SkipValidation[list[dict[int, Logprob] | None] | None] = None


class UnbuiltCompletion(CompletionResponse):
    """vLLM's answer, whose choices are still to be built."""

    _unbuilt: Iterator[Any] = PrivateAttr(default_factory=lambda: iter(()))


def install(state: State) -> None:
    """Let vLLM's handler of completions return answers without choices, where they have many; see the module."""
    vars(chat_serving).update(ChatCompletionResponse=UncheckedChatAnswer)
    vars(completion_serving).update(CompletionResponseChoice=UncheckedChoice, merge_async_iterators=merged)
    handler: Any = state.openai_serving_completion
    build: Callable[..., CompletionResponse] = handler.request_output_to_completion_response

    def build_later(results: list[Any], request: Any, *others: Any) -> CompletionResponse:
        if sum(len(result.outputs) for result in results) <= FEW_CHOICES:
            return build(results, request, *others)
        first = build([_only(results[-1])], request, *others)
        answer = UnbuiltCompletion(**dict(first))
        usage = answer.usage
        usage.prompt_tokens = sum(len(result.prompt_token_ids) for result in results)
        usage.completion_tokens = sum(len(each.token_ids) for result in results for each in result.outputs)
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
        answer._unbuilt = (
            build([_only(result, output)], request, *others).choices[0]
            for result in results
            for output in result.outputs
        )
        return answer

    handler.request_output_to_completion_response = build_later


async def complete(answer: CompletionResponse) -> None:
    """Build the choices that are left."""
    if not isinstance(answer, UnbuiltCompletion):
        return
    for index, choice in enumerate(answer._unbuilt):
        choice.index = index
        answer.choices.append(choice)
        await pause()


async def merged(*streams: AsyncGenerator[Any]) -> AsyncGenerator[tuple[int, Any]]:
    """(index of the stream, its next item) as they come; of each stream one item at most waits to be taken."""
    items: asyncio.Queue[tuple[int, Any, asyncio.Event]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Any]) -> None:
        async for item in stream:
            taken = asyncio.Event()
            items.put_nowait((index, item, taken))
            await taken.wait()

    def ended(task: asyncio.Task[None]) -> None:
        items.put_nowait((-1, task, asyncio.Event()))

    pumps = [asyncio.create_task(pump(*each)) for each in enumerate(streams)]
    for task in pumps:
        task.add_done_callback(ended)
    try:
        running = len(pumps)
        while running:
            index, item, taken = await items.get()
            taken.set()
            if index >= 0:
                yield index, item
                continue
            running -= 1
            item.result()  # raises what the stream raised
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for stream in streams:
            with contextlib.suppress(BaseException):
                await stream.aclose()


def _only(result: Any, *outputs: Any) -> Any:
    """The result with these of its outputs."""
    part = copy(result)
    part.outputs = list(outputs)
    return part
