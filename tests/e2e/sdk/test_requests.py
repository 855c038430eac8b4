"""Everything the official SDK can send, with the sync and with the async client, against a real server."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from server_process import ServerProcess

SUPPORT = "acme-support"
TOOLS = "globex-tools"
BASE = "loragate-demo"
HELLO = [{"role": "user", "content": "Hello!"}]
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def test_two_tenants_answer_the_same_prompt_differently(acme: Any, globex: Any) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 40}
    support = acme.chat.completions.create(model=SUPPORT, **ask)
    tools = globex.chat.completions.create(model=TOOLS, **ask)
    assert support.model == SUPPORT and tools.model == TOOLS
    assert support.choices[0].message.content != tools.choices[0].message.content


def test_chat_reports_usage_and_request_id(acme: Any) -> None:
    answer = acme.chat.completions.create(model=SUPPORT, messages=HELLO, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_completions(acme: Any) -> None:
    answer = acme.completions.create(
        model=SUPPORT, prompt="The capital of France is", max_tokens=8, temperature=0
    )
    assert answer.object == "text_completion" and answer.model == SUPPORT
    assert answer.usage is not None and 1 <= answer.usage.completion_tokens <= 8


def test_completions_takes_several_prompts(acme: Any) -> None:
    answer = acme.completions.create(model=BASE, prompt=["One", "Two", "Three"], max_tokens=4, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_responses(acme: Any) -> None:
    answer = acme.responses.create(model=SUPPORT, input="Hello!", temperature=0, max_output_tokens=40)
    assert answer.model == SUPPORT and answer.output_text
    chat = acme.chat.completions.create(model=SUPPORT, messages=HELLO, temperature=0, max_tokens=40)
    assert answer.output_text == chat.choices[0].message.content


def test_responses_stream(acme: Any) -> None:
    text, last = "", None
    for event in acme.responses.create(model=SUPPORT, input="Hello!", temperature=0, stream=True):
        last = event
        if event.type == "response.output_text.delta":
            text += event.delta
    assert last is not None and last.type == "response.completed"
    assert last.response.model == SUPPORT and last.response.output_text == text != ""


def test_stream_equals_whole_answer_and_carries_usage(acme: Any) -> None:
    ask = {"model": SUPPORT, "messages": HELLO, "temperature": 0, "max_tokens": 60}
    whole = acme.chat.completions.create(**ask)
    chunks = list(acme.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {SUPPORT}
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    last, usage = chunks[-1], whole.usage
    assert last.choices == [] and last.usage is not None and usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_tools(globex: Any, choice: object) -> None:
    answer = globex.chat.completions.create(
        model=TOOLS,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice=choice,
        temperature=0,
        max_tokens=80,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls, answer.choices[0].message
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}
    if choice != {"type": "function", "function": {"name": "get_weather"}}:
        assert answer.choices[0].finish_reason == "tool_calls"


def test_tool_calls_stream(globex: Any) -> None:
    arguments, name = "", ""
    for chunk in globex.chat.completions.create(
        model=TOOLS,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        temperature=0,
        max_tokens=80,
        stream=True,
    ):
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "get_weather" and json.loads(arguments) == {"city": "Paris"}


def as_json(client: Any, properties: dict[str, Any]) -> Any:
    """The answer to a greeting, as JSON of a schema with these properties."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=SUPPORT,
        messages=HELLO,
        temperature=0,
        max_tokens=150,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "thing", "schema": schema, "strict": True},
        },
    )
    return json.loads(answer.choices[0].message.content or "")


def test_json_schema(acme: Any) -> None:
    parsed = as_json(acme, {"colour": {"enum": ["red", "green"]}, "count": {"enum": [1, 2, 3]}})
    assert parsed["colour"] in ("red", "green") and parsed["count"] in (1, 2, 3)


def test_a_schema_is_kept_whatever_was_asked_for_before(acme: Any) -> None:
    """vLLM enforces all schemas with the library of the first; this one's does not know `multipleOf`."""
    number = {"type": "integer", "minimum": 10, "maximum": 99}
    for _ in range(2):
        assert 10 <= as_json(acme, {"number": number})["number"] <= 99
        assert as_json(acme, {"number": number | {"multipleOf": 37}})["number"] in (37, 74)


def test_schemas_of_several_libraries_share_a_batch(acme: Any) -> None:
    word = {"type": "string", "pattern": "^[a-z]+$", "minLength": 3, "maxLength": 5}
    kinds = [
        {"a": {"enum": [1, 2]}},
        {"a": {"type": "integer", "multipleOf": 37, "maximum": 99}},
        {"a": word},
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda at: as_json(acme, kinds[at % 3])["a"], range(24)))
    assert set(answers[0::3]) <= {1, 2}
    assert all(number % 37 == 0 and number <= 99 for number in answers[1::3])
    assert all(re.fullmatch("[a-z]{3,5}", text) for text in answers[2::3])


def test_logprobs(acme: Any) -> None:
    answer = acme.chat.completions.create(
        model=SUPPORT, messages=HELLO, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    for position in logprobs.content:
        best = max(position.top_logprobs, key=lambda top: top.logprob)
        assert len(position.top_logprobs) >= 3 and best.token == position.token and position.logprob <= 0


def test_pieces_of_characters_have_their_bytes(acme: Any) -> None:
    """The model has not learnt emoji: they are forced, and split over tokens."""
    text = "😀é日"
    ask: Any = {"model": BASE, "max_tokens": 9, "temperature": 0}
    ask["extra_body"] = {"structured_outputs": {"choice": [text]}}
    chat = acme.chat.completions.create(**ask, messages=HELLO, logprobs=True, top_logprobs=5).choices[0]
    assert chat.message.content == text and len(chat.logprobs.content) > len(text)
    assert b"".join(bytes(token.bytes) for token in chat.logprobs.content) == text.encode()
    for token in chat.logprobs.content:
        assert token.token == bytes(token.bytes).decode("utf-8", "backslashreplace")
        assert len({tuple(top.bytes) for top in token.top_logprobs}) == len(token.top_logprobs)
    chunks = acme.chat.completions.create(**ask, messages=HELLO, logprobs=True, top_logprobs=5, stream=True)
    streamed = [
        t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content
    ]
    assert [token.bytes for token in streamed] == [token.bytes for token in chat.logprobs.content]
    completion = acme.completions.create(**ask, prompt="a", logprobs=3).choices[0]
    assert completion.text == text and completion.logprobs.text_offset[-1] == len(text) - 1
    assert completion.logprobs.tokens[0] == "\\xf0"
    asked = acme.completions.create(**ask, prompt="a", logprobs=3, stream=True)
    offsets = [c.choices[0].logprobs for c in asked if c.choices and c.choices[0].logprobs]
    assert [at for each in offsets for at in each.text_offset] == completion.logprobs.text_offset


def test_no_model_is_the_keys_only_one(acme: Any, server: ServerProcess, client_for: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=f"one of {BASE}, {SUPPORT}") as caught:
        acme.chat.completions.create(model=None, messages=HELLO)
    assert caught.value.param == "model"
    made = httpx.post(
        f"{server.url}/admin/v1/keys",
        json={"tenant": "acme", "models": [SUPPORT]},
        headers={"authorization": "Bearer demo-admin"},
    ).json()
    answer = client_for(made["secret"]).chat.completions.create(model=None, messages=HELLO, max_tokens=4)
    assert answer.model == SUPPORT


def test_a_missing_answer_is_named(acme: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        acme.responses.create(model=SUPPORT, input="And?", previous_response_id="resp_0")
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_n_gives_that_many_choices(acme: Any) -> None:
    answer = acme.chat.completions.create(
        model=BASE, messages=STORY, n=3, temperature=1.5, max_tokens=24, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_seed_repeats(acme: Any) -> None:
    ask = {"model": BASE, "messages": STORY, "temperature": 1.5, "max_tokens": 24}
    first, again, other = (
        acme.chat.completions.create(**ask, seed=seed).choices[0].message.content for seed in (7, 7, 8)
    )
    assert first == again != other


def test_stop_string(acme: Any) -> None:
    whole = acme.chat.completions.create(model=BASE, messages=STORY, temperature=0, max_tokens=60)
    words = (whole.choices[0].message.content or "").split()
    stop = words[5]
    cut = acme.chat.completions.create(model=BASE, messages=STORY, temperature=0, max_tokens=60, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert stop not in (cut.choices[0].message.content or "")
    assert (whole.choices[0].message.content or "").startswith(cut.choices[0].message.content or "?")


def test_logit_bias_forces_a_token(acme: Any, http: httpx.Client) -> None:
    token = http.post("/tokenize", json={"prompt": "x"}).json()["tokens"][0]
    answer = acme.chat.completions.create(
        model=BASE, messages=HELLO, temperature=0, max_tokens=3, logit_bias={str(token): 100}
    )
    assert answer.choices[0].message.content == "xxx"


def test_max_completion_tokens(acme: Any) -> None:
    answer = acme.chat.completions.create(model=BASE, messages=STORY, max_completion_tokens=5, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 5


def test_models(acme: Any, globex: Any, operator: Any) -> None:
    assert [m.id for m in acme.models.list()] == [BASE, SUPPORT]
    assert [m.id for m in globex.models.list()] == [BASE, TOOLS]
    assert {BASE, SUPPORT, TOOLS} <= {m.id for m in operator.models.list()}
    card = acme.models.retrieve(SUPPORT)
    assert card.model_dump()["parent"] == BASE and card.model_dump()["root"] == SUPPORT
    assert "/" not in json.dumps(card.model_dump())


def test_a_version_can_be_pinned(acme: Any) -> None:
    ask = {"messages": HELLO, "temperature": 0, "max_tokens": 40}
    alias = acme.chat.completions.create(model=SUPPORT, **ask)
    pinned = acme.chat.completions.create(model=f"{SUPPORT}@1", **ask)
    assert pinned.model == f"{SUPPORT}@1"
    assert pinned.choices[0].message.content == alias.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        acme.chat.completions.create(model=f"{SUPPORT}@99", **ask)
