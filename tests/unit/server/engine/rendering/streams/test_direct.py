"""The streams that we write are byte for byte those of vLLM's handlers with the changes of `public_events`."""

from __future__ import annotations

import asyncio

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.outputs import CompletionOutput, RequestOutput

import demo
from server.engine.rendering.streams import direct
from server.engine.rendering.streams.stream_events import public_events
from tests.unit.server.engine.rendering.streams.vllm_handlers import (
    INTERNAL,
    NOW,
    PROMPT,
    PUBLIC,
    chat_stream,
    completion_stream,
    handler,
    install,
    null_usage,
    stream_options,
)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("time.time", lambda: float(NOW))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "\u2028", '"\\/\b\f\n\r\t\x00\x1f\x7f', "é😀"])
).filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text))


@st.composite
def runs(draw):
    """The outputs of one generation of `n` sequences: deltas in any order, each sequence with an end."""
    n = draw(st.integers(1, 3))
    cached = draw(st.sampled_from([None, 0, 2]))
    results, open_sequences = [], list(range(n))
    while open_sequences:
        outputs = []
        for index in draw(st.permutations(open_sequences)):
            reason = draw(st.sampled_from([None, None, "stop", "length", "abort", "repetition", "error"]))
            stop = draw(st.sampled_from([None, 17, 'a "stop"'])) if reason == "stop" else None
            text = draw(texts)
            ids = [1] * draw(st.integers(0, 3))
            outputs.append(
                CompletionOutput(index, text, ids, None, None, finish_reason=reason, stop_reason=stop)
            )
            if reason is not None:
                open_sequences.remove(index)
        results.append(
            RequestOutput(
                "id",
                None,
                PROMPT,
                None,
                outputs,
                finished=not open_sequences,
                num_cached_tokens=cached,
            )
        )
        if len(results) > 12:
            break
    failure = draw(st.sampled_from([None, None, None, RuntimeError("the engine has gone")]))
    return n, results, failure


async def played(results, failure):
    for result in results:
        yield result
    if failure is not None:
        raise failure


async def joined(events):
    return "".join([event async for event in events])


@settings(max_examples=examples(150), deadline=None)
@given(run=runs(), options=stream_options, fingerprint=st.sampled_from([None, "fp_1"]), details=st.booleans())
def test_chats_are_written_as_vllm_writes_them(tokenizer, run, options, fingerprint, details):
    n, *rest = run
    request = ChatCompletionRequest.model_validate(
        {"messages": [{"role": "user", "content": "a"}], "stream": True, "n": n, "stream_options": options}
    )
    made = handler(OpenAIServingChat, fingerprint=fingerprint, details=details)

    def theirs():
        return chat_stream(made, request, played(*rest), tokenizer)

    wanted = asyncio.run(joined(public_events(theirs(), INTERNAL, PUBLIC, with_usage=null_usage(options))))
    install(chat=made)
    found = theirs()
    assert isinstance(found, direct.DirectStream)
    assert asyncio.run(joined(found.events(found.writer(PUBLIC, null_usage=null_usage(options))))) == wanted


@settings(max_examples=examples(150), deadline=None)
@given(run=runs(), options=stream_options, fingerprint=st.sampled_from([None, "fp_1"]), details=st.booleans())
def test_completions_are_written_as_vllm_writes_them(run, options, fingerprint, details):
    n, *rest = run
    request = CompletionRequest.model_validate(
        {"prompt": "a", "max_tokens": 5, "stream": True, "n": n, "stream_options": options}
    )
    made = handler(OpenAIServingCompletion, fingerprint=fingerprint, details=details)
    theirs = completion_stream(made, request, played(*rest))
    wanted = asyncio.run(joined(public_events(theirs, INTERNAL, PUBLIC, with_usage=null_usage(options))))
    install(completion=made)
    found = completion_stream(made, request, played(*rest))
    assert isinstance(found, direct.DirectStream)
    assert asyncio.run(joined(found.events(found.writer(PUBLIC, null_usage=null_usage(options))))) == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"echo": True},
        {"logprobs": True, "top_logprobs": 1},
        {"return_token_ids": True},
    ],
)
def test_what_is_not_written_here_stays_with_vllm(tokenizer, fields):
    request = ChatCompletionRequest.model_validate(
        {"messages": [{"role": "user", "content": "a"}], "stream": True, **fields}
    )
    made = handler(OpenAIServingChat)
    install(chat=made)
    stream = chat_stream(made, request, played([], None), tokenizer)
    assert not isinstance(stream, direct.DirectStream)


def test_an_error_is_a_text_of_its_own():
    made = handler(OpenAIServingCompletion)
    install(completion=made)
    request = CompletionRequest.model_validate({"prompt": "a", "max_tokens": 5, "stream": True})
    output = RequestOutput(
        "id", None, PROMPT, None, [CompletionOutput(0, "a", [1], None, None)], finished=False
    )
    stream = completion_stream(made, request, played([output], RuntimeError("gone")))

    async def read():
        return [text async for text in stream.events(stream.writer(PUBLIC, null_usage=False))]

    first, error, end = asyncio.run(read())
    assert '"text":"a"' in first
    assert error.startswith('data: {"error"')
    assert end == direct.DONE
