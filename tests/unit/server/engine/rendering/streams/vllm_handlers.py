"""vLLM's two handlers without an engine, and what the tests of this folder say to them."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import strategies as st
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

from server.engine.decoding.tool_calls.parser import folding
from server.engine.rendering.streams import direct

INTERNAL, PUBLIC = "acme/support@3#0123456789ab", "acme-support"
NOW = 1_790_000_000
PROMPT = [5, 6, 7]
METADATA = SimpleNamespace(final_usage_info=None)

stream_options = st.sampled_from(
    [
        None,
        {"include_usage": False},
        {"include_usage": True},
        {"include_usage": True, "continuous_usage_stats": True},
    ]
)


def handler(kind, *, fingerprint=None, details=True, engine_client=None):
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
        "engine_client": engine_client,
    }.items():
        setattr(made, name, value)
    return made


def install(*, chat=None, completion=None):
    """Let these handlers return a `DirectStream`."""
    direct.install(
        State(
            {
                "openai_serving_chat": chat or handler(OpenAIServingChat),
                "openai_serving_completion": completion or handler(OpenAIServingCompletion),
            }
        )
    )


def null_usage(options):
    """Whether the chunks have a usage that is null (`stream_events.asks_usage`)."""
    return bool(options and options.get("include_usage") and not options.get("continuous_usage_stats"))


def chat_stream(made, request, results, tokenizer):
    """What the chat handler returns for a stream."""
    return made.chat_completion_stream_generator(
        request, results, "chatcmpl-1", INTERNAL, [], tokenizer, METADATA, chat_template_kwargs={}
    )


def completion_stream(made, request, results):
    """What the completion handler returns for a stream of one prompt."""

    async def numbered():
        async for result in results:
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
