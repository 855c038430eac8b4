"""LiteLLM, with its provider for OpenAI-compatible servers."""

import json
import time

import pytest

litellm = pytest.importorskip("litellm")


def ask(asked, model, key, **options):
    options = {"temperature": 0, "max_tokens": 100, "num_retries": 0, "max_retries": 0} | options
    options.setdefault("messages", asked.hello)
    return litellm.completion(model=f"hosted_vllm/{model}", api_base=asked.v1, api_key=key, **options)


def test_chat(asked):
    assert ask(asked, asked.support, asked.acme).choices[0].message.content


def test_chat_anthropic(asked):
    answer = litellm.completion(
        model=f"anthropic/{asked.support}",
        api_base=asked.url,
        api_key=asked.acme,
        messages=asked.hello,
        max_tokens=60,
    )
    assert answer.choices[0].message.content


def test_stream(asked):
    chunks = list(ask(asked, asked.support, asked.acme, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(asked, asked.support, asked.acme).choices[0].message.content


def test_usage(asked):
    whole = ask(asked, asked.support, asked.acme).usage
    *_, last = ask(asked, asked.support, asked.acme, stream=True, stream_options={"include_usage": True})
    assert (whole.prompt_tokens, whole.completion_tokens) == (
        last.usage.prompt_tokens,
        last.usage.completion_tokens,
    )


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools(asked, choice):
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = ask(
        asked,
        asked.tools,
        asked.globex,
        messages=asked.weather,
        tools=[asked.function],
        tool_choice=named if choice == "named" else choice,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}


def test_structured_model(asked):
    content = ask(asked, asked.support, asked.acme, response_format=asked.order).choices[0].message.content
    asked.order.model_validate_json(content)


def test_structured_schema(asked):
    schema = {"name": "order", "schema": asked.order.model_json_schema(), "strict": True}
    answer = ask(
        asked, asked.support, asked.acme, response_format={"type": "json_schema", "json_schema": schema}
    )
    asked.order.model_validate_json(answer.choices[0].message.content)


def test_structured_json_object(asked):
    answer = ask(
        asked,
        asked.base,
        asked.acme,
        messages=[{"role": "user", "content": asked.as_json}],
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_structured_tool(asked):
    answer = ask(asked, asked.support, asked.acme, tools=[asked.order_function], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    asked.order.model_validate_json(call.function.arguments)


def test_errors(asked):
    with pytest.raises(litellm.AuthenticationError):
        ask(asked, asked.support, "wrong")
    with pytest.raises(litellm.NotFoundError):
        ask(asked, "nothing", asked.acme)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(asked, asked.support, asked.acme, messages=[{"role": "user", "content": "fox " * 9000}])


def test_retries(asked, occupied):
    """Without a strategy that waits, LiteLLM's function sends all its retries at once."""
    options = {"num_retries": 5, "retry_strategy": "exponential_backoff_retry", "max_tokens": 5}
    with occupied(1.5):
        began = time.monotonic()
        assert ask(asked, asked.base, asked.limited, **options).choices
        assert time.monotonic() - began >= 1


def test_retries_router(asked, occupied):
    """Its router waits for Retry-After."""
    where = {"model": f"hosted_vllm/{asked.base}", "api_base": asked.v1, "api_key": asked.limited}
    router = litellm.Router([{"model_name": "demo", "litellm_params": where}], num_retries=4)
    with occupied(1.5):
        began = time.monotonic()
        assert router.completion("demo", messages=asked.hello, max_tokens=5).choices
        assert time.monotonic() - began >= 1
