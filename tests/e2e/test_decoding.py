"""Every decoding option through the official SDK, and the layers, presets and limits above it.

OpenAI's own fields go where the SDK has them, the others through `extra_body`. What an option does to the
distribution is measured in tests/engine/test_distribution.py; here each is seen to arrive and to act.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_process import ServerProcess

import demo
from sampling.options import OPTIONS

BASE = demo.SERVED_NAME
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]
HELLO = [{"role": "user", "content": "Hello!"}]
TENANT = "decoder"
ADAPTER = "styled"
STYLED = f"{TENANT}-{ADAPTER}"


@pytest.fixture(scope="module")
def admin(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=f"{server.url}/admin/v1", headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def tenant_key(admin: httpx.Client) -> str:
    """A tenant of this file's own, with an adapter that brings decoding defaults."""
    assert admin.post("/tenants", json={"name": TENANT}).status_code == 201
    source = str(demo.ADAPTERS["acme-support"].path)
    body = {"source": source, "sampling_defaults": {"temperature": 0, "max_tokens": 7, "top_k": 5}}
    added = admin.post(f"/adapters/{TENANT}/{ADAPTER}/versions", json=body)
    assert added.status_code == 201, added.text
    assert added.json()["warnings"] == []
    return str(admin.post("/keys", json={"tenant": TENANT}).json()["secret"])


@pytest.fixture(scope="module")
def mine(tenant_key: str, client_for: Callable[[str], openai.OpenAI]) -> openai.OpenAI:
    return client_for(tenant_key)


@pytest.fixture
def settings(admin: httpx.Client) -> Iterator[Callable[..., None]]:
    """Changes the tenant's settings; they are lifted after the test. A change is in force within half a second."""

    def change(**values: Any) -> None:
        answer = admin.patch(f"/tenants/{TENANT}", json=values)
        assert answer.status_code == 200, answer.text
        time.sleep(0.7)

    yield change
    change(sampling_defaults={}, limits={})


def token_ids(http: httpx.Client, text: str) -> list[int]:
    ids: list[int] = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    return ids


def chat(client: openai.OpenAI, **options: Any) -> Any:
    ask: dict[str, Any] = {"model": BASE, "messages": STORY, "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**ask | options)


def said(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


def ids_of(answer: Any) -> list[int]:
    return list(answer.choices[0].model_extra["token_ids"])


# How the next token is drawn


def test_greedy_gives_the_same_answer_each_time(acme: openai.OpenAI) -> None:
    assert said(chat(acme)) == said(chat(acme)) != ""


def test_temperature(acme: openai.OpenAI) -> None:
    wild = {said(chat(acme, temperature=2, seed=seed)) for seed in range(3)}
    assert len(wild) == 3


@pytest.mark.parametrize(
    "narrow", [{"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}], ids=str
)
def test_what_leaves_one_token_is_greedy(acme: openai.OpenAI, narrow: dict[str, Any]) -> None:
    assert said(chat(acme, temperature=2, **narrow)) == said(chat(acme))


@pytest.mark.parametrize(
    "penalty",
    [{"extra_body": {"repetition_penalty": 50.0}}, {"frequency_penalty": 2.0}],
    ids=str,
)
def test_penalties_keep_tokens_from_coming_again(
    acme: openai.OpenAI, http: httpx.Client, penalty: dict[str, Any]
) -> None:
    """Of two allowed tokens one comes always; a penalty that grows or multiplies brings the other.

    Their logits are made negative: dividing a positive one brings no token whose logit is below zero.
    The presence penalty, at most 2 and once, is held to its formula in tests/engine/test_distribution.py.
    """
    one, other = token_ids(http, "x")[0], token_ids(http, "y")[0]
    bias = {str(one): -50, str(other): -50}
    ask = {"prompt": "\n", "max_tokens": 60, "temperature": 0, "logit_bias": bias}
    extra = {"allowed_token_ids": [one, other], "ignore_eos": True, "return_token_ids": True}
    plain = acme.completions.create(model=BASE, **ask, extra_body=extra)
    penalised = acme.completions.create(
        model=BASE,
        **ask,
        **{k: v for k, v in penalty.items() if k != "extra_body"},
        extra_body=extra | penalty.get("extra_body", {}),
    )
    assert ids_of(penalised) != ids_of(plain)
    assert len(set(ids_of(penalised))) == 2


def test_seed(acme: openai.OpenAI) -> None:
    first, again, other = (said(chat(acme, temperature=1.5, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other


def test_n(acme: openai.OpenAI) -> None:
    answer = chat(acme, temperature=1.5, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = acme.completions.create(model=BASE, prompt="A", n=2, max_tokens=4, temperature=1.0)
    assert len(texts.choices) == 2


# Which tokens may come


def test_logit_bias(acme: openai.OpenAI, http: httpx.Client) -> None:
    token = token_ids(http, "x")[0]
    assert said(chat(acme, max_tokens=3, logit_bias={str(token): 100})) == "xxx"
    text = acme.completions.create(
        model=BASE, prompt="A", max_tokens=3, temperature=0, logit_bias={str(token): 100}
    )
    assert text.choices[0].text == "xxx"


def test_allowed_token_ids(acme: openai.OpenAI, http: httpx.Client) -> None:
    allowed = [token_ids(http, letter)[0] for letter in "xyz"]
    answer = chat(acme, temperature=1.0, extra_body={"allowed_token_ids": allowed, "return_token_ids": True})
    assert set(ids_of(answer)) <= set(allowed)


def test_bad_words(acme: openai.OpenAI) -> None:
    # NOTE: vLLM bans a word within a text only where it has as many tokens with a space before it as without, so
    # the test takes the first one.
    word = re.findall(r"\w+", said(chat(acme)))[0]
    assert word not in re.findall(r"\w+", said(chat(acme, extra_body={"bad_words": [word]})))


# How long it goes on


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length_on_chat(acme: openai.OpenAI, name: str) -> None:
    answer = acme.chat.completions.create(model=BASE, messages=STORY, temperature=0, **{name: 5})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")


def test_length_elsewhere(acme: openai.OpenAI, http: httpx.Client) -> None:
    text = acme.completions.create(model=BASE, prompt="Tell", temperature=0, max_tokens=4)
    assert text.usage is not None and text.usage.completion_tokens == 4
    response = acme.responses.create(model=BASE, input="Tell me a story.", temperature=0, max_output_tokens=4)
    assert response.usage is not None and response.usage.output_tokens == 4
    assert response.status == "incomplete"
    message = http.post("/v1/messages", json={"model": BASE, "messages": STORY, "max_tokens": 4}).json()
    assert message["usage"]["output_tokens"] == 4 and message["stop_reason"] == "max_tokens"


def test_stop_texts(acme: openai.OpenAI, http: httpx.Client) -> None:
    whole = said(chat(acme, max_tokens=24))
    word = re.findall(r"\w+", whole)[3]
    cut = chat(acme, max_tokens=24, stop=[word])
    assert cut.choices[0].finish_reason == "stop" and said(cut) == whole[: whole.index(word)]
    kept = chat(acme, max_tokens=24, stop=word, extra_body={"include_stop_str_in_output": True})
    assert said(kept).endswith(word)
    body = {
        "model": BASE,
        "messages": STORY,
        "max_tokens": 24,
        "stop_sequences": [word],
        "temperature": 0,
    }
    message = http.post("/v1/messages", json=body).json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", word)


def test_stop_token_ids(acme: openai.OpenAI) -> None:
    extra = {"return_token_ids": True}
    whole = ids_of(chat(acme, extra_body=extra))
    cut = chat(acme, extra_body=extra | {"stop_token_ids": [whole[4]]})
    assert cut.choices[0].finish_reason == "stop"
    assert ids_of(cut) == whole[: whole.index(whole[4]) + 1]


def test_min_tokens_and_ignore_eos(acme: openai.OpenAI) -> None:
    greeting = {"messages": HELLO, "max_tokens": 40}
    short = chat(acme, **greeting)
    assert short.choices[0].finish_reason == "stop"
    length = short.usage.completion_tokens
    longer = chat(acme, **greeting, extra_body={"min_tokens": length + 5})
    assert longer.usage.completion_tokens >= length + 5
    endless = chat(acme, **greeting, extra_body={"ignore_eos": True})
    assert endless.usage.completion_tokens == 40


# What comes back


def test_logprobs(acme: openai.OpenAI, http: httpx.Client) -> None:
    content = chat(acme, max_tokens=3, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == 3 and all(len(place.top_logprobs) >= 2 for place in content)
    text = acme.completions.create(model=BASE, prompt="A", max_tokens=2, temperature=0, logprobs=3)
    assert text.choices[0].logprobs is not None and text.choices[0].logprobs.top_logprobs is not None
    response = acme.responses.create(
        model=BASE,
        input="Hello!",
        max_output_tokens=3,
        temperature=0,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    first: Any = response.output[0]
    assert len(first.content[0].logprobs[0].top_logprobs) == 2
    extra = {"prompt_logprobs": 1}
    prompt = acme.completions.create(model=BASE, prompt="A fox", max_tokens=1, extra_body=extra)
    assert (prompt.choices[0].model_extra or {})["prompt_logprobs"]


def test_logprobs_of_chosen_tokens(acme: openai.OpenAI, http: httpx.Client) -> None:
    wanted = [token_ids(http, letter)[0] for letter in "xyz"]
    extra = {"logprob_token_ids": wanted, "return_tokens_as_token_ids": True}
    text = acme.completions.create(model=BASE, prompt="A", max_tokens=1, logprobs=1, extra_body=extra)
    assert text.choices[0].logprobs is not None and text.choices[0].logprobs.top_logprobs is not None
    assert {f"token_id:{token}" for token in wanted} <= set(text.choices[0].logprobs.top_logprobs[0])


def test_special_tokens_in_the_text(acme: openai.OpenAI, http: httpx.Client) -> None:
    """Two of them in a row, and nothing else may come."""
    special = http.post("/tokenize", json={"prompt": "<|im_start|>", "add_special_tokens": False})
    (token,) = special.json()["tokens"]
    ask = {"max_tokens": 2, "extra_body": {"allowed_token_ids": [token], "ignore_eos": True}}
    assert not said(chat(acme, **ask))
    ask["extra_body"] |= {"skip_special_tokens": False, "spaces_between_special_tokens": False}
    assert said(chat(acme, **ask)) == "<|im_start|>" * 2


# What is read


def test_a_long_prompt_is_cut_where_that_is_asked_for(acme: openai.OpenAI, http: httpx.Client) -> None:
    prompt = "one two three four five six seven eight"
    whole = token_ids(http, prompt)
    for side, kept in (("left", whole[-4:]), ("right", whole[:4])):
        extra = {"truncate_prompt_tokens": 4, "truncation_side": side, "return_token_ids": True}
        answer = acme.completions.create(model=BASE, prompt=prompt, max_tokens=1, extra_body=extra)
        assert (answer.choices[0].model_extra or {})["prompt_token_ids"] == kept


def test_what_the_template_is_given(acme: openai.OpenAI) -> None:
    """Both are taken and handed to the template; the demo's asks for neither, so nothing changes."""
    kwargs: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}, "return_token_ids": True}
    plain = chat(acme, extra_body={"return_token_ids": True})
    assert ids_of(chat(acme, extra_body=kwargs)) == ids_of(plain)
    assert ids_of(chat(acme, reasoning_effort="low", extra_body={"return_token_ids": True})) == ids_of(plain)


# How the answer is searched


def test_beam_search(acme: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": BASE, "prompt": "The capital of", "max_tokens": 6, "temperature": 0}
    beams = acme.completions.create(
        **ask, n=3, extra_body={"use_beam_search": True, "length_penalty": 1.0, "ignore_eos": True}
    )
    texts = [choice.text for choice in beams.choices]
    assert len(texts) == len(set(texts)) == 3


# What form it has

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def test_json_object(acme: openai.OpenAI, http: httpx.Client) -> None:
    """A small model need not close an object in time, so its end is asked for by bias."""
    close = token_ids(http, "{}")
    bias = {str(token): 100 for token in close}
    answer = chat(acme, response_format={"type": "json_object"}, logit_bias=bias)
    assert said(answer).lstrip().startswith("{")


def test_json_schema(acme: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    hello = [{"role": "user", "content": "Hello!"}]
    answer = chat(acme, model="acme-support", messages=hello, max_tokens=60, response_format=wanted)
    assert json.loads(said(answer))["colour"] in ("red", "green")
    form: Any = {"format": {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}}
    response = acme.responses.create(
        model="acme-support", input="Hello!", temperature=0, max_output_tokens=60, text=form
    )
    assert json.loads(response.output_text)["colour"] in ("red", "green")


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"json": SCHEMA}, r'\{\s*"colour":\s*"(red|green)"\s*\}'),
        ({"regex": "[0-9]{3}-[0-9]{2}"}, r"[0-9]{3}-[0-9]{2}"),
        ({"choice": ["north", "south"]}, "north|south"),
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ],
    ids=["json", "regex", "choice", "grammar"],
)
def test_structured_outputs(acme: openai.OpenAI, constraint: dict[str, Any], pattern: str) -> None:
    answer = said(chat(acme, max_tokens=40, extra_body={"structured_outputs": constraint}))
    assert re.fullmatch(pattern, answer), answer


def test_tools(globex: openai.OpenAI) -> None:
    weather: Any = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    one: Any = {"type": "function", "function": {"name": "get_weather"}}
    ask = {"model": "globex-tools", "messages": question, "tools": [weather], "max_tokens": 60}
    calls = chat(globex, **ask, tool_choice=one, parallel_tool_calls=False).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather"]
    assert not chat(globex, **ask, tool_choice="none").choices[0].message.tool_calls


# Repetition


def looping(http: httpx.Client) -> dict[str, Any]:
    """A request whose answer can only be one token, over and over."""
    token = token_ids(http, "x")[0]
    return {"model": BASE, "prompt": "x", "max_tokens": 400, "allowed_token_ids": [token], "ignore_eos": True}


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 5}}, 5),
        ({"repetition": "stop"}, 128),
    ],
    ids=["exact", "fuzzy"],
)
def test_a_loop_is_ended_and_counted(
    http: httpx.Client, server: ServerProcess, asked: dict[str, Any], most: int
) -> None:
    before = repetition_stops(server)
    answer = http.post("/v1/completions", json=looping(http) | asked).json()
    choice = answer["choices"][0]
    assert answer["usage"]["completion_tokens"] <= most
    # Not "stop": an answer that was cut off must not look whole.
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "repetition_detected")
    assert repetition_stops(server) == before + 1


def test_without_being_asked_nothing_is_ended(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=looping(http) | {"max_tokens": 200}).json()
    assert answer["usage"]["completion_tokens"] == 200


def test_a_looping_stream_ends_with_a_legal_reason(http: httpx.Client) -> None:
    with http.stream(
        "POST", "/v1/completions", json=looping(http) | {"repetition": "stop", "stream": True}
    ) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


def test_steering_needs_the_operators_consent(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=looping(http) | {"repetition": "adjust"})
    assert answer.status_code == 400
    assert "--repetition-adjustment" in answer.json()["error"]["message"]


def repetition_stops(server: ServerProcess) -> float:
    text = httpx.get(f"{server.url}/metrics", headers={"authorization": "Bearer demo-admin"}).text
    found = re.findall(
        r'^loragate_repetition_stops_total\{adapter="",tenant="acme",version=""\} ([0-9.]+)', text, re.M
    )
    return float(found[0]) if found else 0.0


# What is refused

BAD = [
    ("temperature", 2.5, "0 to 2"),
    ("temperature", "0.7", "0 to 2"),
    ("top_p", 0, "above 0 up to 1"),
    ("top_k", -2, "at least -1"),
    ("min_p", 1.5, "0 to 1"),
    ("repetition_penalty", 0, "above 0"),
    ("frequency_penalty", 3, "-2 to 2"),
    ("presence_penalty", -3, "-2 to 2"),
    ("seed", 2**64, "64-bit"),
    ("n", 0, "1 to 16384"),
    ("logit_bias", {"5": 101}, "-100 to 100"),
    ("allowed_token_ids", [], "at least one"),
    ("bad_words", [""], "non-empty"),
    ("max_tokens", 0, "at least 1"),
    ("max_completion_tokens", 0, "at least 1"),
    ("min_tokens", -1, "at least 0"),
    ("stop", ["a", "b", "c", "d", "e"], "up to 4"),
    ("stop_token_ids", [-1], "from 0"),
    ("include_stop_str_in_output", 1, "true or false"),
    ("ignore_eos", "yes", "true or false"),
    ("top_logprobs", -5, "at least -1"),
    ("repetition", "panic", "'off', 'stop', 'adjust'"),
    ("response_format", "json", "object"),
    ("structured_outputs", [], "object"),
    ("preset", 5, "preset"),
]


@pytest.mark.parametrize(("name", "value", "range_text"), BAD, ids=[f"{n}-{v}"[:40] for n, v, _ in BAD])
def test_a_bad_value_is_refused_with_field_value_and_range(
    http: httpx.Client, name: str, value: Any, range_text: str
) -> None:
    answer = http.post("/v1/chat/completions", json={"model": BASE, "messages": HELLO, name: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, name)
    assert name in error["message"] and repr(value)[:40] in error["message"], error
    assert range_text in error["message"], error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": "Hi", "max_tokens": 5}, "max_tokens"),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 5, "seed": 1}, "seed"),
        ("/v1/completions", {"prompt": "Hi", "response_format": {"type": "json"}}, "response_format"),
        ("/v1/completions", {"prompt": "Hi", "best_of": 3}, "best_of"),
        ("/v1/chat/completions", {"messages": HELLO, "guided_regex": "a"}, "guided_regex"),
        ("/v1/chat/completions", {"messages": HELLO, "preset": "creativ"}, "preset"),
        ("/v1/chat/completions", {"messages": HELLO, "n": 2, "temperature": 0}, "n"),
        ("/v1/chat/completions", {"messages": HELLO, "min_tokens": 9, "max_tokens": 5}, "min_tokens"),
    ],
)
def test_what_an_endpoint_would_ignore_or_contradict_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    answer = http.post(path, json={"model": BASE} | body)
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"] or param).startswith(param)


def test_a_field_that_nobody_reads_is_told(acme: openai.OpenAI, http: httpx.Client) -> None:
    """A slip of the pen must not pass for an option; and what is ours to set is left out in the open."""
    extra = {"temprature": 0.2, "priority": 1, "preset": "factual", "repetition": "off", "top_k": 3}
    raw = acme.chat.completions.with_raw_response.create(
        model=BASE, messages=HELLO, max_tokens=1, extra_body=extra
    )
    assert raw.headers["x-loragate-ignored"] == "temprature, priority"
    for path, body in (
        ("/v1/completions", {"prompt": "A", "max_tokens": 1}),
        ("/v1/responses", {"input": "A", "max_output_tokens": 1}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 1}),
    ):
        answer = http.post(path, json={"model": BASE, "best": 1, **body})
        assert answer.status_code == 200 and answer.headers["x-loragate-ignored"] == "best", answer.text
    assert (
        "x-loragate-ignored" not in http.post("/v1/completions", json={"model": BASE, "prompt": "A"}).headers
    )


# Presets, layers, limits


def debug(client: openai.OpenAI, **options: Any) -> dict[str, tuple[Any, str]]:
    """The effective options of one chat request: {name: (value, origin)}."""
    headers = {"x-loragate-debug": "1"} | options.pop("extra_headers", {})
    ask: dict[str, Any] = {"model": STYLED, "messages": HELLO, "max_completion_tokens": 2}
    raw = client.chat.completions.with_raw_response.create(**ask | options, extra_headers=headers)
    shown = json.loads(raw.headers["x-loragate-debug"])
    return {name: (held["value"], held["from"]) for name, held in shown.items()}


def test_presets_are_listed(http: httpx.Client) -> None:
    listed = http.get("/v1/presets").json()["data"]
    assert listed["factual"] == {"temperature": 0, "max_tokens": 256}
    assert set(listed) >= {"factual", "chat", "creative", "code", "function_calling"}


def test_a_preset_by_body_and_by_header(mine: openai.OpenAI) -> None:
    by_body = debug(mine, extra_body={"preset": "code"})
    by_header = debug(mine, extra_headers={"x-loragate-preset": "code"})
    assert by_body == by_header
    assert by_body["temperature"] == (0.2, "preset:code") and by_body["top_p"] == (0.9, "preset:code")
    both = debug(mine, extra_body={"preset": "chat"}, extra_headers={"x-loragate-preset": "code"})
    assert both["temperature"] == (0.7, "preset:chat")


def test_a_field_of_the_request_beats_the_preset(mine: openai.OpenAI) -> None:
    held = debug(mine, temperature=0.4, extra_body={"preset": "creative"})
    assert held["temperature"] == (0.4, "request") and held["top_p"] == (0.95, "preset:creative")
    assert held["max_tokens"] == (2, "request")


def test_layers(mine: openai.OpenAI, settings: Callable[..., None]) -> None:
    assert debug(mine)["temperature"] == (0, "adapter")
    settings(sampling_defaults={"temperature": 0.9, "min_p": 0.1})
    held = debug(mine, extra_body={"preset": "factual"})
    assert held["top_k"] == (5, "adapter")
    assert held["min_p"] == (0.1, "tenant")
    assert held["temperature"] == (0, "preset:factual")
    assert debug(mine)["temperature"] == (0.9, "tenant")
    assert debug(mine, temperature=0.3)["temperature"] == (0.3, "request")


def test_an_adapters_defaults_act(mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model=STYLED, messages=HELLO)
    assert answer.usage is not None and answer.usage.completion_tokens <= 7


def test_without_the_header_nothing_is_told(mine: openai.OpenAI) -> None:
    raw = mine.chat.completions.with_raw_response.create(model=STYLED, messages=HELLO, max_tokens=1)
    assert "x-loragate-debug" not in raw.headers and "x-loragate-clamped" not in raw.headers


def test_max_tokens_is_clamped_and_told(mine: openai.OpenAI, settings: Callable[..., None]) -> None:
    settings(limits={"max_tokens": 6})
    raw = mine.chat.completions.with_raw_response.create(
        model=BASE, messages=STORY, temperature=0, max_tokens=50
    )
    assert raw.headers["x-loragate-clamped"] == "max_tokens=6"
    answer = raw.parse()
    assert answer.usage is not None and answer.usage.completion_tokens == 6
    assert answer.choices[0].finish_reason == "length"
    assert debug(mine, max_completion_tokens=50)["max_tokens"] == (6, "limit")
    stream = mine.chat.completions.with_raw_response.create(
        model=BASE, messages=STORY, temperature=0, max_tokens=50, stream=True
    )
    assert stream.headers["x-loragate-clamped"] == "max_tokens=6"


@pytest.mark.parametrize(
    ("limits", "asked", "param"),
    [
        ({"n": 2}, {"n": 3, "temperature": 1.0}, "n"),
        ({"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"stop_count": 1}, {"stop": ["a", "b"]}, "stop"),
        ({"prompt_tokens": 3}, {}, "prompt"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else value,
)
def test_other_limits_refuse(
    mine: openai.OpenAI,
    settings: Callable[..., None],
    limits: dict[str, int],
    asked: dict[str, Any],
    param: str,
) -> None:
    settings(limits=limits)
    with pytest.raises(openai.BadRequestError) as refused:
        chat(mine, **asked)
    assert refused.value.param == param and "limit of" in refused.value.message


def test_a_temperature_that_cannot_be_computed_with_is_told(mine: openai.OpenAI) -> None:
    raw = mine.chat.completions.with_raw_response.create(
        model=BASE, messages=HELLO, max_tokens=1, temperature=0.001
    )
    assert raw.headers["x-loragate-clamped"] == "temperature=0.01"


def test_settings_that_no_request_could_use_are_refused(admin: httpx.Client, tenant_key: str) -> None:
    for change in (
        {"sampling_defaults": {"temperature": 9}},
        {"sampling_defaults": {"temprature": 0.5}},
        {"limits": {"max_tokens": 0}},
        {"limits": {"max_token": 5}},
    ):
        assert admin.patch(f"/tenants/{TENANT}", json=change).status_code == 400, change


def test_the_adapters_page_shows_what_holds_and_why(admin: httpx.Client, tenant_key: str) -> None:
    version = admin.get(f"/adapters/{TENANT}/{ADAPTER}").json()["versions"][0]
    assert version["warnings"] == []
    assert version["decoding"]["temperature"] == {"value": 0, "from": "adapter"}
    assert version["decoding"]["max_tokens"] == {"value": 7, "from": "adapter"}


def test_every_option_of_the_table_is_named_in_this_file() -> None:
    """A new option needs a test here, or a word why not."""
    text = Path(__file__).read_text(encoding="utf-8")
    not_here = {
        # It needs a model that reasons and a parser of its thoughts; the unit tests hold it against vLLM's models.
        "thinking_token_budget",
    }  # fmt: skip
    assert {option.name for option in OPTIONS} - not_here <= set(re.findall(r"\w+", text))
