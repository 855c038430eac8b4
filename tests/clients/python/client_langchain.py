"""LangChain: ChatOpenAI (chat completions and responses) and ChatAnthropic."""

import time

import pytest

pytest.importorskip("langchain_openai")
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI


def chat(asked, model, key, **options):
    options = {"temperature": 0, "max_tokens": 100, "max_retries": 0, "use_responses_api": False} | options
    return ChatOpenAI(base_url=asked.v1, api_key=key, model=model, **options)


def claude(asked, model, key, **options):
    options = {"temperature": 0, "max_tokens": 100, "max_retries": 0} | options
    return ChatAnthropic(base_url=asked.url, api_key=key, model=model, **options)


@pytest.fixture(params=["completions", "responses", "messages"])
def make(request, asked):
    """Makes a model that calls one of the three endpoints."""
    if request.param == "messages":
        return lambda model, key, **options: claude(asked, model, key, **options)
    uses = request.param == "responses"
    return lambda model, key, **options: chat(asked, model, key, use_responses_api=uses, **options)


def test_chat(make, asked):
    assert make(asked.support, asked.acme).invoke("Hello!").text


def test_stream(make, asked):
    model = make(asked.support, asked.acme)
    assert "".join(chunk.text for chunk in model.stream("Hello!")) == model.invoke("Hello!").text


def test_usage(make, asked):
    model = make(asked.support, asked.acme)
    whole = model.invoke("Hello!").usage_metadata
    streamed = None
    asks = isinstance(model, ChatOpenAI) and not model.use_responses_api
    for chunk in model.stream("Hello!", **({"stream_usage": True} if asks else {})):
        streamed = chunk if streamed is None else streamed + chunk
    counted = ("input_tokens", "output_tokens")
    assert whole["output_tokens"] > 0
    assert [whole[name] for name in counted] == [streamed.usage_metadata[name] for name in counted]


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools(make, asked, choice):
    model = make(asked.tools, asked.globex)
    bound = model.bind_tools(
        [convert_to_openai_tool(asked.function)],
        tool_choice={"auto": "auto", "required": "any", "named": "get_weather"}[choice],
    )
    answer = bound.invoke(asked.question)
    (call,) = answer.tool_calls
    assert call["name"] == "get_weather" and call["args"] == {"city": "Paris"}
    history = [HumanMessage(asked.question), answer, ToolMessage("sunny", tool_call_id=call["id"])]
    assert model.bind_tools([asked.function]).invoke(history) is not None


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_structured(asked, method):
    """JSON mode promises an object, so it gets a question that the demo answers with one."""
    free = method == "json_mode"
    expected, question = (asked.any_object, asked.as_json) if free else (asked.order, "Hello!")
    model = chat(asked, asked.base if free else asked.support, asked.acme, max_tokens=400)
    assert isinstance(model.with_structured_output(expected, method=method).invoke(question), expected)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_strict(asked, method):
    model = chat(asked, asked.support, asked.acme)
    bound = model.with_structured_output(asked.order, method=method, strict=True)
    assert isinstance(bound.invoke("Hello!"), asked.order)


def test_structured_responses(asked):
    model = chat(asked, asked.support, asked.acme, use_responses_api=True)
    bound = model.with_structured_output(asked.order, method="json_schema")
    assert isinstance(bound.invoke("Hello!"), asked.order)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_messages(asked, method):
    model = claude(asked, asked.support, asked.acme)
    assert isinstance(model.with_structured_output(asked.order, method=method).invoke("Hello!"), asked.order)


def test_errors(make, asked):
    for model, key, status in ((asked.support, "wrong", 401), ("nothing", asked.acme, 404)):
        with pytest.raises(Exception) as refused:
            make(model, key).invoke("Hello!")
        assert refused.value.status_code == status


def test_retries(make, asked, occupied):
    with occupied(1.5):
        began = time.monotonic()
        assert make(asked.base, asked.limited, max_retries=4, max_tokens=5).invoke("Hello!")
        assert time.monotonic() - began >= 1
