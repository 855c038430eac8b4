"""LlamaIndex: OpenAILike, the class for servers that speak OpenAI's protocol."""

import json
import time

import pytest

pytest.importorskip("llama_index.llms.openai_like")
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def llm(asked, model, key, **options):
    options = {
        "is_function_calling_model": True,
        "max_retries": 0,
        "temperature": 0,
        "max_tokens": 400,
    } | options
    return OpenAILike(
        model=model, api_base=asked.v1, api_key=key, is_chat_model=True, context_window=2048, **options
    )


def hello():
    return [ChatMessage(role="user", content="Hello!")]


def get_weather(city: str) -> str:
    """Current weather in a city."""
    return f"sunny in {city}"


def test_chat(asked):
    assert llm(asked, asked.support, asked.acme).chat(hello()).message.content


def test_chat_completions(asked):
    assert llm(asked, asked.base, asked.acme, max_tokens=5).complete("The capital of France is").text


def test_stream(asked):
    model = llm(asked, asked.support, asked.acme)
    text = "".join(chunk.delta or "" for chunk in model.stream_chat(hello()))
    assert text == model.chat(hello()).message.content


def test_usage(asked):
    raw = llm(asked, asked.support, asked.acme).chat(hello()).raw
    assert raw.usage.completion_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required", "named"])
def test_tools(asked, choice, streamed):
    model = llm(asked, asked.tools, asked.globex)
    options = {"auto": {}, "required": {"tool_required": True}, "named": {"tool_choice": "get_weather"}}[
        choice
    ]
    ask = {"tools": [FunctionTool.from_defaults(get_weather)], "user_msg": asked.question, **options}
    if streamed:
        *_, answer = model.stream_chat_with_tools(**ask)
    else:
        answer = model.chat_with_tools(**ask)
    (call,) = model.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather" and call.tool_kwargs == {"city": "Paris"}


def test_structured_function(asked):
    """A model that is said to call functions gets the schema as a function that it must call, with `strict` false."""
    model = llm(asked, asked.support, asked.acme)
    assert isinstance(model.structured_predict(asked.order, PromptTemplate("Hello!")), asked.order)


def test_structured_llm(asked):
    structured = llm(asked, asked.support, asked.acme).as_structured_llm(asked.order)
    assert isinstance(structured.chat(hello()).raw, asked.order)


def test_structured_json_schema(asked):
    model = llm(
        asked, asked.support, asked.acme, is_function_calling_model=False, should_use_structured_outputs=True
    )
    assert isinstance(model.structured_predict(asked.order, PromptTemplate("Hello!")), asked.order)


def test_structured_json_object(asked):
    question = [ChatMessage(role="user", content=asked.as_json)]
    answer = llm(asked, asked.base, asked.acme).chat(question, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.message.content), dict)


def test_errors(asked):
    for name, key, status in ((asked.support, "wrong", 401), ("nothing", asked.acme, 404)):
        with pytest.raises(Exception) as refused:
            llm(asked, name, key).chat(hello())
        assert refused.value.status_code == status


def test_retries(asked, occupied):
    with occupied(1.5):
        began = time.monotonic()
        assert llm(asked, asked.base, asked.limited, max_retries=4, max_tokens=5).chat(hello())
        assert time.monotonic() - began >= 1
