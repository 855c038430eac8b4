"""Chunks have the public name of the model, and `usage` where it was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.types.responses import (
    ResponseContentPartDoneEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDoneEvent,
)
from openai.types.responses import response_text_done_event as text_done_event
from openai.types.responses.response_output_text import Logprob, LogprobTopLogprob
from starlette.datastructures import State
from vllm.exceptions import VLLMValidationError

from server.engine.rendering.logprobs import SLICE
from server.engine.rendering.streams.stream_events import public_events, refuse_before_events
from server.errors import InvalidRequest

CHUNK = 'data: {"id":"a","model":"a/desk@1#x","choices":[{"delta":{"content":"\\"usage\\": \\"choices\\":[]"}}]}\n\n'
TOKENS = (
    'data: {"id":"a","model":"a/desk@1#x","choices":[{"logprobs":{"top_logprobs":[{"usage":-1.0}]}}]}\n\n'
)
LAST = 'data: {"id":"a","model":"a/desk@1#x","choices":[],"usage":{"prompt_tokens":1}}\n\n'
OTHERS = ['data: {"error":{"message":"x"}}\n\n', "data: [DONE]\n\n"]


async def chunks() -> AsyncGenerator[str]:
    for each in (CHUNK, TOKENS, LAST, *OTHERS):
        yield each


@pytest.mark.parametrize("asked", [False, True])
async def test_usage_is_null_in_all_chunks_but_the_last(asked: bool) -> None:
    events = [e async for e in public_events(chunks(), "a/desk@1#x", "acme-desk", with_usage=asked)]
    read = [json.loads(event.removeprefix("data: ")) for event in events[:3]]
    assert {chunk["model"] for chunk in read} == {"acme-desk"}
    assert [chunk.get("usage", "none") for chunk in read] == [
        *[None if asked else "none"] * 2, {"prompt_tokens": 1}
    ]  # fmt: skip
    assert read[0]["choices"][0]["delta"]["content"] == '"usage": "choices":[]'
    assert events[3:] == OTHERS


def response_events(logprobs: list[Any]) -> list[Any]:
    """The last events of a Responses stream, which repeat what came before."""
    text = ResponseOutputText(annotations=[], text="t", type="output_text", logprobs=logprobs)
    message = ResponseOutputMessage(
        id="m", content=[text], role="assistant", status="completed", type="message"
    )
    told = [text_done_event.Logprob.model_validate(each.model_dump()) for each in logprobs]
    place: dict[str, Any] = {"output_index": 0, "sequence_number": 1}
    inside = place | {"item_id": "m", "content_index": 0}
    return [
        ResponseTextDoneEvent(**inside, logprobs=told, text="t", type="response.output_text.done"),
        ResponseContentPartDoneEvent(**inside, part=text, type="response.content_part.done"),
        ResponseOutputItemDoneEvent(**place, item=message, type="response.output_item.done"),
    ]


@pytest.mark.parametrize("count", [0, 3, 400])
async def test_log_probabilities_of_last_events_are_written_in_slices(count: int) -> None:
    tops = [LogprobTopLogprob(token="b", bytes=[1], logprob=-2.0)] * 20
    logprobs = [Logprob(token=f"t{n}", bytes=[2], logprob=-1.0, top_logprobs=tops) for n in range(count)]
    given = response_events(logprobs)
    wanted = [f"event: {e.type}\ndata: {e.model_dump_json(indent=None, by_alias=True)}\n\n" for e in given]

    async def stream() -> AsyncGenerator[Any]:
        for event in given:
            yield event

    turns = [0]

    async def count_turns() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    assert [each async for each in public_events(stream(), "a", "a")] == wanted
    counting.cancel()
    assert turns[0] >= (3 * count * 21 // SLICE if count > 100 else 0)
    assert len(given[1].part.logprobs) == count, "the record is as it was"


class Responses:
    """Writes an event before it asks the engine, as vLLM's handler does."""

    async def responses_stream_generator(
        self, request: Any, params: Any, contexts: AsyncGenerator[Any], *others: Any
    ) -> AsyncGenerator[str]:
        yield "created"
        async for context in contexts:
            yield f"{context} {others}"
        yield "completed"


async def answer(*contexts: Any) -> AsyncGenerator[Any]:
    for context in contexts:
        if isinstance(context, Exception):
            raise context
        yield context


def begun(*contexts: Any) -> AsyncGenerator[str]:
    state = State({"openai_serving_responses": Responses()})
    refuse_before_events(state)
    stream: AsyncGenerator[str] = state.openai_serving_responses.responses_stream_generator(
        None, None, answer(*contexts), 7
    )
    return stream


async def test_a_stream_of_responses_is_refused_before_its_first_event() -> None:
    assert [event async for event in begun(1, 2)] == ["created", "1 (7,)", "2 (7,)", "completed"]
    assert [event async for event in begun()] == ["created", "completed"]
    with pytest.raises(InvalidRequest, match="no such thing"):
        await anext(begun(VLLMValidationError("no such thing", parameter="x"), 1))
    late = begun(1, VLLMValidationError("too late", parameter="x"))
    assert [await anext(late), await anext(late)] == ["created", "1 (7,)"]
    with pytest.raises(VLLMValidationError):
        await anext(late)
