"""Whatever a model writes and whatever cuts it: the folded stream is the whole answer, on each endpoint.

vLLM's own handlers, renderer, detokenizer and stop strings with the demo's tokenizer; only the tokens are invented.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from sampling.endpoints import Endpoint
from tests.unit.server.engine.decoding.tool_calls.folds import of_stream, of_whole, texts_and_calls
from tests.unit.server.engine.decoding.tool_calls.scripted_engine import Rig, Script

ENDPOINTS = [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ["get_weather", "add"]
#: Where an answer may be cut; also within calls and tags.
STOPS = ["Paris", "}", "</tool_call>", "tool", "\n", '"city"', "é", "name", "w", "!"]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(
        ["Paris", "Zürich", "日本 😀", "</tool_call>", '<tool_call>{"', 'a "quote"', "x\ny\\z", ""]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(st.sampled_from(["city", "a", "é"]), values, max_size=2)


@st.composite
def written_calls(draw: st.DrawFn) -> tuple[str, tuple[str, Any]]:
    """A call as a model writes it, and what it means."""
    name, given = draw(st.sampled_from(NAMES)), draw(arguments)
    escaped = draw(st.booleans())
    call = {"name": name, "arguments": given}
    if draw(st.booleans()):
        call = dict(reversed(call.items()))
    text = json.dumps(call, ensure_ascii=escaped, indent=draw(st.sampled_from([None, None, 1])))
    before, after = draw(st.sampled_from(["", "\n", " \n"])), draw(st.sampled_from(["", "\n"]))
    return f"<tool_call>{before}{text}{after}</tool_call>", (name, given)


ODD = [
    "<tool_call>",
    "</tool_call>",
    "<tool_<tool_call>call>",
    "<tool_call>\n<tool_call>\n",
    "a < b <to",
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par',
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris}}\n</tool_call>',
    '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}</tool_call>',
    '<tool_call>{"name": "get_weather", "arguments": ["Paris"]}</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": <name>, "arguments": <arguments>}</tool_call>',
    "<tool_call> is a tag </tool_call>",
    '{"city": "Paris"}',
    "<tool_call>" + '{"a":[' * 70,
]
#: A forced call as vLLM writes it without a grammar for tags, and half of another.
LISTED = ('[{"name": "add", "parameters": {"a": 1}}, {"name": "add", "param', ("add", {"a": 1}))
words = st.text(alphabet=st.sampled_from('ab <>/{}"\n\t é日😀tolcw_'), max_size=12)
written = st.lists(
    written_calls() | st.tuples(st.sampled_from(ODD) | words, st.none()) | st.just(LISTED), max_size=5
)
texts = written.map(lambda parts: ("".join(text for text, _ in parts), [call for _, call in parts if call]))


@st.composite
def requests(draw: st.DrawFn, endpoint: Endpoint) -> tuple[dict[str, Any], Script, list[list[Any]]]:
    """A body, what the model writes for it, and the complete calls in each of the samples."""
    n = draw(st.integers(1, 2)) if endpoint is Endpoint.CHAT else 1
    samples = draw(st.lists(texts, min_size=n, max_size=n))
    stop = draw(st.just([]) | st.lists(st.sampled_from(STOPS), max_size=2))
    choice = draw(st.sampled_from([None, "auto", "none", "required", "named"]))
    tools = draw(st.sampled_from([True, True, True, False])) or choice in ("required", "named")
    parallel = draw(st.sampled_from([None, True, False]))
    body = {
        Endpoint.CHAT: _chat,
        Endpoint.RESPONSES: _responses,
        Endpoint.MESSAGES: _messages,
    }[endpoint](tools, choice, parallel, stop, draw(st.integers(1, 150)))
    if endpoint is Endpoint.CHAT:
        body |= {"n": n, "include_stop_str_in_output": draw(st.booleans())}
    steps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    script = Script([text for text, _ in samples], steps, draw(st.integers(1, 4)))
    return body, script, [calls for _, calls in samples]


def _chat(tools: bool, choice: Any, parallel: Any, stop: list[str], most: int) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stop": stop, "max_tokens": most}
    if tools:
        body["tools"] = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in NAMES]
        named = {"type": "function", "function": {"name": "get_weather"}}
        body |= {"tool_choice": named if choice == "named" else choice} if choice else {}
        body |= {} if parallel is None else {"parallel_tool_calls": parallel}
    return body


def _responses(tools: bool, choice: Any, parallel: Any, stop: list[str], most: int) -> dict[str, Any]:
    body: dict[str, Any] = {"input": "Hi", "max_output_tokens": most}
    if stop:
        body["stop"] = stop
    if tools:
        body["tools"] = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
        named = {"type": "function", "name": "get_weather"}
        body |= {"tool_choice": named if choice == "named" else choice} if choice else {}
        body |= {} if parallel is None else {"parallel_tool_calls": parallel}
    return body


def _messages(tools: bool, choice: Any, parallel: Any, stop: list[str], most: int) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": most}
    body["stop_sequences"] = stop
    if tools:
        body["tools"] = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
        kind = {"required": "any", "named": "tool"}.get(choice, choice)
        named = {"name": "get_weather"} if choice == "named" else {}
        serial = {} if parallel is None else {"disable_parallel_tool_use": not parallel}
        body |= {"tool_choice": {"type": kind} | named | serial} if kind else {}
    return body


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


def check(rig: Rig, endpoint: Endpoint, asked: tuple[dict[str, Any], Script, list[list[Any]]]) -> None:
    body, script, complete = asked
    whole = of_whole(endpoint, rig.whole(endpoint, body, script))
    usage = {"stream_options": {"include_usage": True}} if endpoint is Endpoint.CHAT else {}
    assert of_stream(endpoint, rig.stream(endpoint, body | usage, script)) == whole
    choice = body.get("tool_choice")
    for at, (text, calls) in enumerate(texts_and_calls(endpoint, whole)):
        if not body.get("tools"):
            assert not calls
            continue
        assert "<tool_call>" not in text and "</tool_call>" not in text
        if choice in ("none", {"type": "none"}):
            assert not calls
        elif not (isinstance(choice, dict) and choice["type"] in ("function", "tool")):
            rest = iter(complete[at])
            assert all(call in rest for call in calls), "only complete calls, in their order"
    if endpoint is Endpoint.CHAT:
        for choice_ in whole["choices"]:
            assert choice_["finish_reason"] != "tool_calls" or choice_["calls"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(max_examples=examples(200))
def test_the_folded_stream_is_the_whole_answer(rig: Rig, endpoint: Endpoint, data: st.DataObject) -> None:
    check(rig, endpoint, data.draw(requests(endpoint)))


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A server with a reasoning parser, whose tokenizer has the tags of Qwen3's as tokens."""
    folder = tmp_path_factory.mktemp("thinking")
    shutil.copytree("demo/model", folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    tokenizer.save_pretrained(folder)
    return Rig(
        model=str(folder),
        engine_args={"reasoning_parser": "qwen3"},
        data_dir=tmp_path_factory.mktemp("data"),
        tool_call_parser="hermes",
    )


THOUGHTS = st.sampled_from(
    ["", "<think>\nHm.\n</think>\n\n", "Hm.</think>", "<think>Hm", "<think>Hm</think>a</think>", "a <th"]
)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(max_examples=examples(60))
def test_thoughts_are_the_same_too(thinking: Rig, endpoint: Endpoint, data: st.DataObject) -> None:
    body, script, complete = data.draw(requests(endpoint))
    script.texts = [data.draw(THOUGHTS) + text for text in script.texts]
    check(thinking, endpoint, (body, script, complete))


@st.composite
def written_functions(draw: st.DrawFn) -> tuple[str, tuple[str, Any]]:
    """A call as Qwen3-Coder writes it, and what it means: values are text, or what the schema says."""
    name = draw(st.sampled_from(NAMES))
    given = draw(
        st.dictionaries(st.sampled_from(["city", "é"]), st.sampled_from(["Paris", "a\n<b>", "😀 {"]))
    )
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in given.items())
    before, after = draw(
        st.sampled_from([("<tool_call>\n", "\n</tool_call>"), ("", ""), ("<tool_call>", "")])
    )
    return f"{before}<function={name}>\n{inner}</function>{after}", (name, given)


FUNCTIONS_ODD = [
    "<function=add>\n<parameter=city>\nPar<function=add>\n<parameter=city>\nParis\n</parameter>\n</function>",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</func<function=add>\n</function>",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar\n</function>\n</tool_call>",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</func",
    "<tool_call>\n<function",
    "<tool_call>\n<function=></function>",
    "<tool_call> is a tag",
    '<tool_call>{"name": 3}</tool_call>',  # a name alone would be a call where an answer must be one
    "a <func",
]
functions = st.lists(
    written_functions() | st.tuples(st.sampled_from(FUNCTIONS_ODD) | words, st.none()), max_size=4
)


@pytest.fixture(scope="module")
def coder() -> Rig:
    return Rig(demo=True, tool_call_parser="qwen3_coder")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(max_examples=examples(60))
def test_the_calls_of_qwen_coder(coder: Rig, endpoint: Endpoint, data: st.DataObject) -> None:
    body, script, _ = data.draw(requests(endpoint))
    parts = [data.draw(functions) for _ in script.texts]
    script.texts = ["".join(text for text, _ in each) for each in parts]
    check(coder, endpoint, (body, script, [[call for _, call in each if call] for each in parts]))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(max_examples=3_000)
def test_the_folded_stream_is_the_whole_answer_long(
    rig: Rig, endpoint: Endpoint, data: st.DataObject
) -> None:
    check(rig, endpoint, data.draw(requests(endpoint)))
