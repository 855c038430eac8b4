"""What a worker renders is what vLLM's renderer makes of the same body, with the options of all layers."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from vllm.usage.usage_lib import UsageContext

from sampling.endpoints import Endpoint
from sampling.limits import DEFAULT_LIMITS, Limits
from server.config.settings import Settings
from server.engine.args import engine_args, frontend_args
from server.engine.rendering import prompt_worker_tasks as tasks
from server.errors import InvalidRequest
from server.request.body import without_prompt

LIMITS = Limits(**DEFAULT_LIMITS)
HELLO = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello there!"}]
CHAT_TEXT = (
    "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHello there!<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="module", autouse=True)
def started() -> None:
    settings = Settings(demo=True)
    arguments = engine_args(settings)
    config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    setup = pickle.loads(pickle.dumps((config, frontend_args(settings, arguments))))
    tasks.setup(*setup)


def rendered(endpoint: Endpoint, body: dict[str, Any], **defaults: Any) -> list[dict[str, Any]]:
    raw = json.dumps({"model": "m"} | body).encode()
    lean = pickle.loads(pickle.dumps(tasks.read_body(raw, endpoint, LIMITS)))
    return pickle.loads(pickle.dumps(tasks.render(raw, endpoint, lean | defaults, LIMITS))).engine_inputs()


def ids(text: str) -> list[int]:
    tokenizer = tasks._worker._renderer.get_tokenizer()
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    ("endpoint", "body", "texts"),
    [
        (Endpoint.CHAT, {"messages": HELLO}, [CHAT_TEXT]),
        (Endpoint.RESPONSES, {"input": HELLO[1:], "instructions": "Be short."}, [CHAT_TEXT]),
        (Endpoint.MESSAGES, {"messages": HELLO[1:], "system": "Be short.", "max_tokens": 3}, [CHAT_TEXT]),
        (Endpoint.COMPLETIONS, {"prompt": ["Hello", "there"]}, ["Hello", "there"]),
    ],
)
def test_every_endpoint_is_rendered(endpoint: Endpoint, body: dict[str, Any], texts: list[str]) -> None:
    inputs = rendered(endpoint, body)
    assert [each["prompt"] for each in inputs] == texts
    assert [each["prompt_token_ids"] for each in inputs] == [ids(text) for text in texts]


def test_token_ids_stay_as_they_are() -> None:
    assert [each["prompt_token_ids"] for each in rendered(Endpoint.COMPLETIONS, {"prompt": [5, 6]})] == [
        [5, 6]
    ]


def test_options_that_a_layer_added_hold() -> None:
    (cut,) = rendered(Endpoint.COMPLETIONS, {"prompt": "word " * 50}, truncate_prompt_tokens=3)
    assert len(cut["prompt_token_ids"]) == 3


def test_many_requests_after_each_other_are_independent() -> None:
    for text in ("a", "b", "a"):
        body = {"messages": [{"role": "user", "content": text}]}
        (prompt,) = rendered(Endpoint.CHAT, body)
        assert prompt["prompt_token_ids"] == ids(
            f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        )


@pytest.mark.parametrize(
    ("endpoint", "body", "code", "sentence"),
    [
        (Endpoint.CHAT, {"messages": [{"role": 1}] * 9}, "invalid_request", "messages.0."),
        (Endpoint.CHAT, {"messages": HELLO, "max_tokens": "x"}, "invalid_request", "max_tokens"),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            "context_length_exceeded",
            "100050",
        ),
        (Endpoint.CHAT, {"messages": HELLO * 3000}, "invalid_value", "6000 messages; at most 4096"),
        (Endpoint.COMPLETIONS, {"prompt": [2**70]}, "invalid_request", "out of vocabulary"),
    ],
)
def test_a_refusal_crosses_the_processes_with_its_reason(
    endpoint: Endpoint, body: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rendered(endpoint, body)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, again.param) == (code, caught.value.param) and sentence in str(again)


def test_tokens_are_counted_where_they_are_made() -> None:
    raw = json.dumps({"model": "m", "prompt": "Hello there", "return_token_strs": True}).encode()
    model, content, count = tasks.tokenize(raw, LIMITS)
    answer = json.loads(content)
    assert model == "m" and count == answer["count"] == len(answer["token_strs"])
    assert answer["tokens"] == ids("Hello there")
    raw = json.dumps({"tokens": answer["tokens"]}).encode()
    assert tasks.detokenize(raw, LIMITS) == (None, b'{"prompt":"Hello there"}', count)


def test_what_wraps_the_engines_renderer_wraps_the_workers() -> None:
    seen: list[str] = []
    settings = Settings(demo=True)
    arguments = engine_args(settings)
    config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)

    def wrap(renderer: Any) -> None:
        encode = renderer._tokenize_prompt_async

        async def tokenize(prompt: Any, params: Any) -> Any:
            seen.append(prompt["prompt"])
            return await encode(prompt, params)

        renderer._tokenize_prompt_async = tokenize

    before = tasks._worker
    tasks.setup(config, frontend_args(settings, arguments), wrap)
    rendered(Endpoint.CHAT, {"messages": HELLO})
    tasks._worker = before
    assert seen[-1] == CHAT_TEXT


def test_a_lean_body_is_accepted_by_the_handlers_wire_models() -> None:
    for endpoint, body in (
        (Endpoint.CHAT, {"messages": [*HELLO, {"role": "tool", "tool_call_id": "c", "content": "x"}]}),
        (Endpoint.CHAT, {"messages": [*HELLO, {"role": "developer", "content": "x"}]}),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 3}),
        (Endpoint.RESPONSES, {"input": HELLO}),
        (Endpoint.MESSAGES, {"messages": HELLO[1:], "max_tokens": 1}),
    ):
        wire = tasks._worker.handlers._handlers[endpoint].wire
        wire.model_validate(without_prompt({"model": "m"} | body, endpoint))


@pytest.mark.parametrize(
    ("content", "is_text"),
    [
        ("see image.png", True),
        ([{"type": "text", "text": "a file"}], True),
        ([{"type": "image_url", "image_url": {"url": "data:,"}}], False),
        ([{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {}}], False),
        ([{"type": "tool_result", "content": [{"type": "image", "source": {}}]}], False),
        ([{"video_url": "https://example.com"}], False),
    ],
)
def test_only_text_can_be_rendered_for_a_model_that_reads_pictures(content: Any, is_text: bool) -> None:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    lean = tasks.read_text_body(raw, Endpoint.CHAT, LIMITS)
    assert (lean is not None) == is_text
    assert lean is None or lean == tasks.read_body(raw, Endpoint.CHAT, LIMITS)
