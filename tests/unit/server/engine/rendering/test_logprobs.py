"""Many logprobs are built after the handler has written its answer, and are in it at their place."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses.response_output_text import Logprob as OutputLogprob
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
)
from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs, CompletionResponseChoice
from vllm.logprobs import Logprob

from server.engine.rendering.json_pieces import as_json
from server.engine.rendering.logprobs import SLICE, DeferredLogprobs, deferring, filled_events, install

TOKENS = 300
TEXT = 'a "quoted"\n\\ text, ümlaut'


class Handlers:
    """vLLM's four handlers; they note how many tokens they were asked to build at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.state: Any = SimpleNamespace(
            openai_serving_chat=SimpleNamespace(_create_chat_logprobs=self.chat),
            anthropic_serving_messages=SimpleNamespace(_create_chat_logprobs=self.chat),
            openai_serving_completion=SimpleNamespace(_create_completion_logprobs=self.completion),
            openai_serving_responses=SimpleNamespace(_create_response_logprobs=self.response),
        )

    def chat(self, *, token_ids: Any, top_logprobs: Any, **_: Any) -> ChatCompletionLogProbs:
        self.asked.append(len(token_ids))
        pairs = zip(token_ids, top_logprobs, strict=True)
        content = [
            ChatCompletionLogProbsContent(token=f"{TEXT}{i}", logprob=-float(len(top))) for i, top in pairs
        ]
        return ChatCompletionLogProbs(content=content)

    def response(self, *, token_ids: Any, logprobs: Any, **_: Any) -> list[OutputLogprob]:
        self.asked.append(len(token_ids))
        return [
            OutputLogprob(token=f"{TEXT}{i}", bytes=[1], logprob=-0.5, top_logprobs=[]) for i in token_ids
        ]

    def completion(
        self, *, token_ids: Any, top_logprobs: Any, initial_text_offset: int = 0, **_: Any
    ) -> CompletionLogProbs:
        self.asked.append(len(token_ids))
        tokens = [f"{TEXT}{i}" for i in token_ids]
        offsets = [initial_text_offset + sum(map(len, tokens[:i])) for i in range(len(tokens))]
        tops: list[Any] = [{f"t{i}": -0.25} for i in token_ids]
        return CompletionLogProbs(
            text_offset=offsets, token_logprobs=[-0.5] * len(tokens), tokens=tokens, top_logprobs=tops
        )


def arguments(lists: str, tokens: int = TOKENS) -> dict[str, Any]:
    return {"token_ids": list(range(tokens)), lists: [{0: 1, 1: 2}] * tokens, "tokenizer": None}


@pytest.mark.parametrize(
    ("handler", "function", "lists"),
    [
        ("openai_serving_chat", "_create_chat_logprobs", "top_logprobs"),
        ("openai_serving_completion", "_create_completion_logprobs", "top_logprobs"),
        ("openai_serving_responses", "_create_response_logprobs", "logprobs"),
    ],
)
async def test_slices_are_what_was_built_at_once(handler: str, function: str, lists: str) -> None:
    handlers = Handlers()
    at_once = getattr(getattr(handlers.state, handler), function)(**arguments(lists))
    install(handlers.state)
    create = getattr(getattr(handlers.state, handler), function)
    handlers.asked.clear()

    def dumped(logprobs: Any) -> Any:
        return (
            [each.model_dump() for each in logprobs] if isinstance(logprobs, list) else logprobs.model_dump()
        )

    with deferring() as deferred:
        answer = {
            "first": dumped(create(**arguments(lists))),
            "second": dumped(create(**arguments(lists))),
            "x": TEXT,
        }
    assert handlers.asked == [] and len(deferred.parts) == 2
    whole = dumped(at_once)
    told = "".join(await deferred.filled(as_json(answer)))
    assert json.loads(told) == {"first": whole, "second": whole, "x": TEXT}
    assert max(handlers.asked) * 3 <= SLICE and sum(handlers.asked) == 2 * TOKENS


def test_few_are_built_at_once_but_not_many_times_few() -> None:
    handlers = Handlers()
    install(handlers.state)
    with deferring() as deferred:
        for _ in range(20):
            handlers.state.openai_serving_chat._create_chat_logprobs(**arguments("top_logprobs", 10))
    assert sum(handlers.asked) * 3 <= SLICE and len(deferred.parts) == 20 - len(handlers.asked)


def test_a_chats_stream_and_others_get_theirs_at_once() -> None:
    handlers = Handlers()
    install(handlers.state)
    create = handlers.state.openai_serving_chat._create_chat_logprobs
    assert len(create(**arguments("top_logprobs")).content) == TOKENS
    with deferring(DeferredLogprobs(is_stream=True)) as deferred:
        assert len(create(**arguments("top_logprobs")).content) == TOKENS
    assert deferred.parts == []


async def test_a_stream_that_echoes_its_prompt_has_slices_and_the_same_offsets() -> None:
    """vLLM's handler computes the next chunk's offset from what it gets; that is a placeholder here."""
    told = []
    for sliced in (False, True):
        handlers = Handlers()
        if sliced:
            install(handlers.state)
        create = handlers.state.openai_serving_completion._create_completion_logprobs

        async def chunks(create: Any = create) -> AsyncGenerator[str]:
            offset = 0
            for tokens in (TOKENS, 2, TOKENS, 1):
                made = create(**arguments("top_logprobs", tokens), initial_text_offset=offset)
                offset = made.text_offset[-1] + len(made.tokens[-1])
                yield f"data: {made.model_dump_json(exclude_unset=True)}\n\n"

        events = filled_events(chunks()) if sliced else chunks()
        told.append([json.loads(event.removeprefix("data: ")) async for event in events])
        assert max(handlers.asked) * 3 <= SLICE or not sliced
    assert told[0] == told[1] and len(told[1][2]["tokens"]) == TOKENS


async def test_the_prompts_are_written_in_slices_too() -> None:
    rows: list[Any] = [None, *({i: Logprob(-0.5, 1, TEXT), i + 1: Logprob(-1.5)} for i in range(TOKENS))]
    choice = CompletionResponseChoice(index=0, text="x", prompt_logprobs=rows)
    whole = json.loads(choice.model_dump_json())
    with deferring() as deferred:
        deferred.take_prompt_logprobs(SimpleNamespace(choices=[choice]))
    assert len(choice.prompt_logprobs or ()) == 1 and len(deferred.parts) == 1
    assert json.loads("".join(await deferred.filled(as_json(choice.model_dump(mode="json"))))) == whole
