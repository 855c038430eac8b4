"""pydantic-ai: its chat, responses and Anthropic models."""

import time

import pytest

pytest.importorskip("pydantic_ai")
import openai
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"temperature": 0, "max_tokens": 400}


def model(asked, name, key, kind=OpenAIChatModel, retries=0):
    client = openai.AsyncOpenAI(base_url=asked.v1, api_key=key, max_retries=retries)
    return kind(name, provider=OpenAIProvider(openai_client=client))


@pytest.fixture(params=["completions", "responses"])
def make(request, asked):
    kind = OpenAIChatModel if request.param == "completions" else OpenAIResponsesModel
    return lambda name, key, **options: model(asked, name, key, kind, **options)


def test_chat(make, asked):
    assert Agent(make(asked.support, asked.acme)).run_sync("Hello!", model_settings=SETTINGS).output


def test_stream(make, asked):
    agent = Agent(make(asked.support, asked.acme))
    result = agent.run_stream_sync("Hello!", model_settings=SETTINGS)
    *_, last = result.stream_text(debounce_by=None)
    assert last == agent.run_sync("Hello!", model_settings=SETTINGS).output


def test_usage(make, asked):
    result = Agent(make(asked.support, asked.acme)).run_sync("Hello!", model_settings=SETTINGS)
    usage = result.usage() if callable(result.usage) else result.usage
    assert usage.input_tokens > 0 and usage.output_tokens > 0


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools(make, asked, choice):
    """`auto`: the agent may call its tool. `required`: its output is a call, so that it must call one."""
    called = []

    def get_weather(city: str) -> str:
        """Current weather in a city."""
        called.append(city)
        return "sunny"

    if choice == "auto":
        agent = Agent(make(asked.tools, asked.globex), tools=[get_weather])
        assert agent.run_sync(asked.question, model_settings=SETTINGS).output
    else:
        agent = Agent(make(asked.tools, asked.globex), output_type=get_weather)
        assert agent.run_sync(asked.question, model_settings=SETTINGS).output == "sunny"
    assert called == ["Paris"]


@pytest.mark.parametrize("mode", ["tool", "strict_tool", "native"])
def test_structured(make, asked, mode):
    output = {
        "tool": lambda: ToolOutput(asked.order),
        "strict_tool": lambda: ToolOutput(asked.order, strict=True),
        "native": lambda: NativeOutput(asked.order, strict=True),
    }[mode]()
    agent = Agent(make(asked.support, asked.acme), output_type=output, retries=0)
    assert isinstance(agent.run_sync("Hello!", model_settings=SETTINGS).output, asked.order)


def test_structured_prompted(make, asked):
    """The schema stands in the prompt only; the server enforces an object."""
    agent = Agent(make(asked.base, asked.acme), output_type=PromptedOutput(asked.any_object), retries=0)
    assert isinstance(agent.run_sync(asked.as_json, model_settings=SETTINGS).output, asked.any_object)


def test_errors(make, asked):
    for name, key, status in ((asked.support, "wrong", 401), ("nothing", asked.acme, 404)):
        with pytest.raises(ModelHTTPError) as refused:
            Agent(make(name, key)).run_sync("Hello!")
        assert refused.value.status_code == status


def test_retries(make, asked, occupied):
    agent = Agent(make(asked.base, asked.limited, retries=4))
    with occupied(1.5):
        began = time.monotonic()
        assert agent.run_sync("Hello!", model_settings={"max_tokens": 5}).output
        assert time.monotonic() - began >= 1
