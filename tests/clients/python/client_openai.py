"""The official OpenAI package."""

import json
import time

import pytest

openai = pytest.importorskip("openai")


@pytest.fixture
def acme(asked):
    return openai.OpenAI(base_url=asked.v1, api_key=asked.acme, max_retries=0)


@pytest.fixture
def globex(asked):
    return openai.OpenAI(base_url=asked.v1, api_key=asked.globex, max_retries=0)


def test_chat(acme, asked):
    answer = acme.chat.completions.create(model=asked.support, messages=asked.hello)
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"


def test_chat_responses(acme, asked):
    assert acme.responses.create(model=asked.support, input="Hello!").output_text


def test_stream(acme, asked):
    chunks = list(
        acme.chat.completions.create(model=asked.support, messages=asked.hello, stream=True, seed=1)
    )
    whole = acme.chat.completions.create(model=asked.support, messages=asked.hello, seed=1)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content


def test_stream_helper(acme, asked):
    with acme.chat.completions.stream(model=asked.support, messages=asked.hello) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content
    assert {"content.delta", "content.done"} <= kinds


def test_stream_responses(acme, asked):
    with acme.responses.stream(model=asked.support, input="Hello!") as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_response().output_text
    assert {"response.output_text.delta", "response.completed"} <= kinds


def test_usage(acme, asked):
    usage = acme.chat.completions.create(model=asked.support, messages=asked.hello).usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


def test_usage_stream(acme, asked):
    ask = {"model": asked.support, "messages": asked.hello, "stream": True}
    chunks = list(acme.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools(globex, asked, choice, streamed):
    named = {"type": "function", "function": {"name": "get_weather"}}
    ask = {
        "model": asked.tools,
        "messages": asked.weather,
        "tools": [asked.function],
        "tool_choice": named if choice == "named" else choice,
        "temperature": 0,
    }
    if streamed:
        with globex.chat.completions.stream(**ask) as stream:
            answer = stream.get_final_completion()
    else:
        answer = globex.chat.completions.create(**ask)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}


@pytest.mark.parametrize("choice", ["required", "named"])
def test_tools_keep_their_schema(globex, asked, choice):
    named = {"type": "function", "function": {"name": "place_order"}}
    answer = globex.chat.completions.create(
        model=asked.tools,
        messages=asked.weather,
        tools=[asked.order_function],
        tool_choice=named if choice == "named" else choice,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls
    asked.order.model_validate_json(call.function.arguments)


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools_responses(globex, asked, choice):
    answer = globex.responses.create(
        model=asked.tools,
        input=asked.question,
        tools=[{"type": "function", **asked.function["function"]}],
        tool_choice={"type": "function", "name": "get_weather"} if choice == "named" else choice,
        temperature=0,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}


def test_structured_parse(acme, asked):
    answer = acme.chat.completions.parse(
        model=asked.support, messages=asked.hello, response_format=asked.order, max_tokens=100
    )
    assert isinstance(answer.choices[0].message.parsed, asked.order)


def test_structured_parse_stream(acme, asked):
    ask = {"model": asked.support, "messages": asked.hello, "response_format": asked.order, "max_tokens": 100}
    with acme.chat.completions.stream(**ask) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, asked.order)


def test_structured_strict_tool(acme, asked):
    answer = acme.chat.completions.parse(
        model=asked.support,
        messages=asked.hello,
        tools=[openai.pydantic_function_tool(asked.order)],
        tool_choice="required",
        max_tokens=100,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, asked.order)


def test_structured_json_object(acme, asked):
    answer = acme.chat.completions.create(
        model=asked.base,
        messages=[{"role": "user", "content": asked.as_json}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=400,
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_structured_responses_parse(acme, asked):
    answer = acme.responses.parse(
        model=asked.support, input="Hello!", text_format=asked.order, max_output_tokens=100
    )
    assert isinstance(answer.output_parsed, asked.order)


def test_errors(acme, asked):
    with pytest.raises(openai.AuthenticationError):
        acme.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        acme.chat.completions.create(model="nothing", messages=asked.hello)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        acme.chat.completions.create(
            model=asked.support, messages=[{"role": "user", "content": "fox " * 9000}]
        )
    assert long.value.code == "context_length_exceeded"


def test_retries(asked, occupied):
    client = openai.OpenAI(base_url=asked.v1, api_key=asked.limited, max_retries=0)
    with occupied(1.5):
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model=asked.base, messages=asked.hello)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        began = time.monotonic()
        answer = client.with_options(max_retries=4).chat.completions.create(
            model=asked.base, messages=asked.hello, max_tokens=5
        )
        assert answer.choices and time.monotonic() - began >= 1
