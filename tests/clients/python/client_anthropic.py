"""The official Anthropic package, on /v1/messages."""

import time

import pytest

anthropic = pytest.importorskip("anthropic")
#: anthropic 2 has no argument for it any more.
GREEDY = {"temperature": 0}


@pytest.fixture
def acme(asked):
    return anthropic.Anthropic(base_url=asked.url, api_key=asked.acme, max_retries=0)


@pytest.fixture
def globex(asked):
    return anthropic.Anthropic(base_url=asked.url, api_key=asked.globex, max_retries=0)


def weather(asked):
    return {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "input_schema": asked.schema,
    }


def order(asked):
    return {"name": "place_order", "description": "Place.", "input_schema": asked.order.model_json_schema()}


def test_chat(acme, asked):
    answer = acme.messages.create(model=asked.support, max_tokens=60, messages=asked.hello, system="Be kind.")
    assert answer.content[0].text and answer.stop_reason == "end_turn"


def test_chat_with_bearer_token(asked):
    client = anthropic.Anthropic(base_url=asked.url, auth_token=asked.acme, max_retries=0)
    assert client.messages.create(model=asked.support, max_tokens=60, messages=asked.hello).content


def test_stream(acme, asked):
    ask = {"model": asked.support, "max_tokens": 60, "messages": asked.hello, "extra_body": GREEDY}
    with acme.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = acme.messages.create(**ask)
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason


def test_usage(acme, asked):
    ask = {"model": asked.support, "max_tokens": 60, "messages": asked.hello, "extra_body": GREEDY}
    with acme.messages.stream(**ask) as stream:
        streamed = stream.get_final_message().usage
    whole = acme.messages.create(**ask).usage
    assert (whole.input_tokens, whole.output_tokens) == (streamed.input_tokens, streamed.output_tokens)
    assert whole.input_tokens > 0 and whole.output_tokens > 0


def test_usage_count_tokens(acme, asked):
    counted = acme.messages.count_tokens(model=asked.support, messages=asked.hello)
    used = acme.messages.create(model=asked.support, max_tokens=5, messages=asked.hello).usage
    assert counted.input_tokens == used.input_tokens


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools(globex, asked, choice, streamed):
    choices = {
        "auto": {"type": "auto"},
        "required": {"type": "any"},
        "named": {"type": "tool", "name": "get_weather"},
    }
    ask = {
        "model": asked.tools,
        "max_tokens": 100,
        "messages": asked.weather,
        "tools": [weather(asked)],
        "tool_choice": choices[choice],
        "extra_body": GREEDY,
    }
    if streamed:
        with globex.messages.stream(**ask) as stream:
            answer = stream.get_final_message()
    else:
        answer = globex.messages.create(**ask)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "get_weather" and call.input == {"city": "Paris"} and answer.stop_reason == "tool_use"


@pytest.mark.parametrize("choice", ["required", "named"])
def test_tools_keep_their_schema(acme, asked, choice):
    answer = acme.messages.create(
        model=asked.support,
        max_tokens=100,
        messages=asked.weather,
        tools=[order(asked)],
        tool_choice={"type": "any"} if choice == "required" else {"type": "tool", "name": "place_order"},
        extra_body=GREEDY,
    )
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    asked.order.model_validate(call.input)


def test_tools_results(globex, asked):
    """The answer to a call goes back, and the model goes on."""
    ask = {"model": asked.tools, "max_tokens": 100, "tools": [weather(asked)], "extra_body": GREEDY}
    first = globex.messages.create(**ask, messages=asked.weather)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    history = [
        *asked.weather,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    assert globex.messages.create(**ask, messages=history).content


def test_structured_parse(acme, asked):
    answer = acme.messages.parse(
        model=asked.support, max_tokens=100, messages=asked.hello, output_format=asked.order
    )
    assert isinstance(answer.parsed_output, asked.order)


def test_structured_strict_tool(acme, asked):
    answer = acme.messages.create(
        model=asked.support,
        max_tokens=100,
        messages=asked.hello,
        tools=[order(asked) | {"strict": True}],
        tool_choice={"type": "tool", "name": "place_order"},
    )
    asked.order.model_validate(answer.content[0].input)


def test_errors(acme, asked):
    with pytest.raises(anthropic.AuthenticationError):
        acme.with_options(api_key="wrong").messages.create(
            model=asked.support, max_tokens=5, messages=asked.hello
        )
    with pytest.raises(anthropic.NotFoundError):
        acme.messages.create(model="nothing", max_tokens=5, messages=asked.hello)
    with pytest.raises(anthropic.BadRequestError):
        acme.messages.create(model=asked.support, max_tokens=0, messages=asked.hello)


def test_retries(asked, occupied):
    client = anthropic.Anthropic(base_url=asked.url, api_key=asked.limited, max_retries=0)
    ask = {"model": asked.base, "max_tokens": 5, "messages": asked.hello}
    with occupied(1.5):
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(**ask)
        began = time.monotonic()
        answer = client.with_options(max_retries=4).messages.create(**ask)
        assert answer.content and time.monotonic() - began >= 1
