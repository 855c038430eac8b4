"""instructor, in each mode that its OpenAI client has."""

import time
from collections.abc import Iterable

import pytest

instructor = pytest.importorskip("instructor")
import anthropic  # noqa: E402
import openai  # noqa: E402
from pydantic import BaseModel, ValidationError  # noqa: E402

#: Modes that enforce a schema on the server; the demo model knows none of it, so nothing else can produce an order.
ENFORCED = ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"]


class get_weather(BaseModel):
    """Current weather in a city."""

    city: str


def client(asked, mode, key=None, **options):
    options = {"max_retries": 0} | options
    sdk = openai.OpenAI(base_url=asked.v1, api_key=key or asked.acme, **options)
    return instructor.from_openai(sdk, mode=getattr(instructor.Mode, mode))


def create(asked, mode, response_model, **options):
    limit = "max_output_tokens" if mode.startswith("RESPONSES") else "max_tokens"
    options = {"model": asked.support, "max_retries": 0, limit: 400, "temperature": 0} | options
    return client(asked, mode).chat.completions.create(
        messages=asked.hello, response_model=response_model, **options
    )


def test_chat(asked):
    answer = client(asked, "TOOLS").chat.completions.create(
        model=asked.support, messages=asked.hello, response_model=None
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("mode", [mode for mode in ENFORCED if hasattr(instructor.Mode, mode)])
def test_structured(asked, mode):
    assert isinstance(create(asked, mode, asked.order), asked.order)


def test_structured_parallel_tools(asked):
    """This mode leaves it to the model whether it calls (`tool_choice` auto), so it needs one that does."""
    calls = client(asked, "PARALLEL_TOOLS", key=asked.globex).chat.completions.create(
        model=asked.tools,
        messages=asked.weather,
        response_model=Iterable[get_weather],
        max_retries=0,
        temperature=0,
    )
    assert [call.city for call in calls] == ["Paris"]


def test_structured_json(asked):
    """JSON mode enforces an object, not the schema: that stands in the prompt only."""
    messages = [{"role": "user", "content": asked.as_json}]
    made = client(asked, "JSON").chat.completions.create(
        model=asked.base,
        messages=messages,
        response_model=asked.any_object,
        max_retries=0,
        max_tokens=400,
        temperature=0,
    )
    assert isinstance(made, asked.any_object)


def test_structured_anthropic_tools(asked):
    sdk = anthropic.Anthropic(base_url=asked.url, api_key=asked.acme, max_retries=0)
    made = instructor.from_anthropic(sdk, mode=instructor.Mode.TOOLS)
    order = made.messages.create(
        model=asked.support, max_tokens=100, messages=asked.hello, response_model=asked.order, max_retries=0
    )
    assert isinstance(order, asked.order)


def test_stream_partial(asked):
    parts = client(asked, "TOOLS").chat.completions.create_partial(
        model=asked.support, messages=asked.hello, response_model=asked.order, max_tokens=100, max_retries=0
    )
    last = list(parts)[-1]
    asked.order.model_validate(last.model_dump())


def test_stream_iterable(asked):
    """instructor's schema lets the list of orders be absent, and then instructor takes `{}` for an order.

    About half of all answers have a list; it has no end that the demo model would find, so the limit may cut it.
    """

    def orders(seed):
        try:
            return list(
                client(asked, "TOOLS").chat.completions.create_iterable(
                    model=asked.support,
                    messages=asked.hello,
                    response_model=asked.order,
                    max_tokens=200,
                    max_retries=0,
                    seed=seed,
                )
            )
        except ValidationError:
            return []

    found = next(filter(None, map(orders, range(20))))
    assert all(isinstance(order, asked.order) for order in found)


def test_usage(asked):
    order, raw = client(asked, "TOOLS").chat.completions.create_with_completion(
        model=asked.support, messages=asked.hello, response_model=asked.order, max_tokens=100, max_retries=0
    )
    assert order and raw.usage.completion_tokens > 0


def test_errors(asked):
    with pytest.raises(Exception, match="does not exist"):
        create(asked, "TOOLS", asked.order, model="nothing")


def test_retries(asked, occupied):
    made = client(asked, "JSON_SCHEMA", key=asked.limited, max_retries=4)
    with occupied(1.5):
        began = time.monotonic()
        order = made.chat.completions.create(
            model=asked.base, messages=asked.hello, response_model=asked.order, max_tokens=100, max_retries=0
        )
        assert isinstance(order, asked.order) and time.monotonic() - began >= 1
