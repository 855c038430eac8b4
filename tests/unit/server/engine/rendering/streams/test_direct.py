"""The streams that we write are byte for byte those of vLLM's handlers with the changes of `public_events`."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import State
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.outputs import CompletionOutput, RequestOutput

import demo
from server.engine.decoding.tool_calls.parser import folding
from server.engine.rendering.streams import direct
from server.engine.rendering.streams.stream_events import public_events

INTERNAL, PUBLIC = "acme/support@3#0123456789ab", "acme-support"
NOW = 1_790_000_000
PROMPT = [5, 6, 7]


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("time.time", lambda: float(NOW))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


def handler(kind, *, fingerprint=None, details=True):
    """A handler of vLLM, without an engine."""
    made = object.__new__(kind)
    for name, value in {
        "system_fingerprint": fingerprint,
        "enable_prompt_tokens_details": details,
        "enable_force_include_usage": False,
        "enable_per_request_metrics": False,
        "enable_log_outputs": False,
        "request_logger": None,
        "response_role": "assistant",
        "_include_reasoning_tokens_details": False,
        "parser_cls": folding(None),
        "model_config": SimpleNamespace(is_encoder_decoder=False),
    }.items():
        setattr(made, name, value)
    return made


texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "\u2028", '"\\/\b\f\n\r\t\x00\x1f\x7f', "é😀"])
).filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text))
options = st.sampled_from(
    [
        None,
        {"include_usage": False},
        {"include_usage": True},
        {"include_usage": True, "continuous_usage_stats": True},
    ]
)


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


def null_usage(options):
    return bool(options and options.get("include_usage") and not options.get("continuous_usage_stats"))


def completion_stream(made, request, run):
    async def numbered():
        async for result in played(*run):
            yield 0, result

    return made.completion_stream_generator(
        request,
        [{"prompt_token_ids": PROMPT, "prompt": "a"}],
        numbered(),
        "cmpl-1",
        NOW,
        INTERNAL,
        num_prompts=1,
        tokenizer=None,
        request_metadata=METADATA,
    )


METADATA = SimpleNamespace(final_usage_info=None)


@settings(max_examples=examples(150), deadline=None)
@given(run=runs(), options=options, fingerprint=st.sampled_from([None, "fp_1"]), details=st.booleans())
def test_chats_are_written_as_vllm_writes_them(tokenizer, run, options, fingerprint, details):
    n, *rest = run
    request = ChatCompletionRequest.model_validate(
        {"messages": [{"role": "user", "content": "a"}], "stream": True, "n": n, "stream_options": options}
    )
    made = handler(OpenAIServingChat, fingerprint=fingerprint, details=details)

    def theirs():
        return made.chat_completion_stream_generator(
            request, played(*rest), "chatcmpl-1", INTERNAL, [], tokenizer, METADATA, chat_template_kwargs={}
        )

    wanted = asyncio.run(joined(public_events(theirs(), INTERNAL, PUBLIC, with_usage=null_usage(options))))
    direct.install(
        State({"openai_serving_chat": made, "openai_serving_completion": handler(OpenAIServingCompletion)})
    )
    found = theirs()
    assert isinstance(found, direct.DirectStream)
    assert asyncio.run(joined(found.events(PUBLIC, null_usage=null_usage(options)))) == wanted


@settings(max_examples=examples(150), deadline=None)
@given(run=runs(), options=options, fingerprint=st.sampled_from([None, "fp_1"]), details=st.booleans())
def test_completions_are_written_as_vllm_writes_them(run, options, fingerprint, details):
    n, *rest = run
    request = CompletionRequest.model_validate(
        {"prompt": "a", "max_tokens": 5, "stream": True, "n": n, "stream_options": options}
    )
    made = handler(OpenAIServingCompletion, fingerprint=fingerprint, details=details)
    theirs = completion_stream(made, request, rest)
    wanted = asyncio.run(joined(public_events(theirs, INTERNAL, PUBLIC, with_usage=null_usage(options))))
    direct.install(
        State({"openai_serving_chat": handler(OpenAIServingChat), "openai_serving_completion": made})
    )
    found = completion_stream(made, request, rest)
    assert isinstance(found, direct.DirectStream)
    assert asyncio.run(joined(found.events(PUBLIC, null_usage=null_usage(options)))) == wanted


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
    direct.install(
        State({"openai_serving_chat": made, "openai_serving_completion": handler(OpenAIServingCompletion)})
    )
    stream = made.chat_completion_stream_generator(
        request, played([], None), "chatcmpl-1", INTERNAL, [], tokenizer, METADATA, chat_template_kwargs={}
    )
    assert not isinstance(stream, direct.DirectStream)


def test_an_error_is_a_text_of_its_own():
    made = handler(OpenAIServingCompletion)
    direct.install(
        State({"openai_serving_chat": handler(OpenAIServingChat), "openai_serving_completion": made})
    )
    request = CompletionRequest.model_validate({"prompt": "a", "max_tokens": 5, "stream": True})
    output = RequestOutput(
        "id", None, PROMPT, None, [CompletionOutput(0, "a", [1], None, None)], finished=False
    )
    stream = completion_stream(made, request, ([output], RuntimeError("gone")))

    async def read():
        return [text async for text in stream.events(PUBLIC, null_usage=False)]

    first, error, end = asyncio.run(read())
    assert '"text":"a"' in first
    assert error.startswith('data: {"error"')
    assert end == direct.DONE
