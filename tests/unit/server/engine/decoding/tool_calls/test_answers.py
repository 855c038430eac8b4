"""Single answers through vLLM's handlers: reasons, tools that may not be called, signs of life, odd servers."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.parser import ParserManager

from sampling.endpoints import Endpoint
from server.engine.decoding.tool_calls.answers import _answer
from server.engine.decoding.tool_calls.parser import MAX_CALLS, SLICE, FoldingParser, folding
from server.errors import InvalidRequest
from tests.unit.server.engine.decoding.tool_calls.folds import of_stream, of_whole
from tests.unit.server.engine.decoding.tool_calls.scripted_engine import Rig, Script

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASK = {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "function": WEATHER}]}


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(
    ("text", "options", "calls", "reason"),
    [
        (PARIS, {}, 1, "tool_calls"),
        (PARIS, {"tool_choice": "required"}, 1, "tool_calls"),
        (PARIS, {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, 1, "stop"),
        (PARIS, {"max_tokens": 12}, 0, "length"),
        (PARIS * 2, {"max_tokens": 40}, 1, "length"),
        (PARIS, {"stop": ["Paris"]}, 0, "stop"),
        (PARIS, {"stop": ["Paris"], "tool_choice": "required"}, 0, "stop"),
        (PARIS * 2, {"stop": ["\n</tool_call>"]}, 1, "tool_calls"),
        ("Hello", {"tool_choice": "required"}, 0, "stop"),
    ],
)
def test_reasons(rig: Rig, text: str, options: dict[str, Any], calls: int, reason: str) -> None:
    whole = of_whole(Endpoint.CHAT, rig.whole(Endpoint.CHAT, ASK | options, Script([text])))
    (choice,) = whole["choices"]
    assert (len(choice["calls"]), choice["finish_reason"]) == (calls, reason)
    assert choice["content"] in ("", "Hello")
    streamed = of_stream(Endpoint.CHAT, rig.stream(Endpoint.CHAT, ASK | options, Script([text])))
    assert streamed["choices"] == whole["choices"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, ASK | {"tool_choice": "none"}),
        (
            Endpoint.RESPONSES,
            {"input": "Hi", "tools": [{"type": "function"} | WEATHER], "tool_choice": "none"},
        ),
        (
            Endpoint.MESSAGES,
            {
                "messages": ASK["messages"],
                "max_tokens": 90,
                "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}],
                "tool_choice": {"type": "none"},
            },
        ),
    ],
)
def test_with_tool_choice_none_the_model_sees_no_tools_and_calls_none(
    rig: Rig, endpoint: Endpoint, body: dict[str, Any]
) -> None:
    answer = str(rig.whole(endpoint, body, Script([f"Yes.{PARIS} No."])))
    assert "get_weather" not in rig.engine.prompt
    assert "Yes. No." in answer and "Paris" not in answer


BODIES: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: ASK | {"stream_options": {"include_usage": True}},
    Endpoint.RESPONSES: {"input": "Hi", "tools": [{"type": "function"} | WEATHER]},
    Endpoint.MESSAGES: {
        "messages": ASK["messages"],
        "max_tokens": 90,
        "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}],
    },
}


@pytest.mark.parametrize("endpoint", BODIES, ids=lambda endpoint: endpoint.name)
@pytest.mark.parametrize("steps", [1, 4, 200])
def test_text_after_calls_stands_behind_them(rig: Rig, endpoint: Endpoint, steps: int) -> None:
    script = Script([f"I look.{PARIS}\nThen{PARIS}\nIt is warm."], [steps])
    body = BODIES[endpoint]
    asked = {name: value for name, value in body.items() if name != "stream_options"}
    whole = of_whole(endpoint, rig.whole(endpoint, asked, script))
    assert of_stream(endpoint, rig.stream(endpoint, body, script)) == whole
    if endpoint is Endpoint.CHAT:
        (choice,) = whole["choices"]
        assert choice["content"] == "I look.\nThen\nIt is warm." and len(choice["calls"]) == 2
        return
    items = whole["output" if endpoint is Endpoint.RESPONSES else "content"]
    said = [item.get("text", "call") for item in items]
    assert said == ["I look.", "call", "call", "\nThen\nIt is warm."]


def allowed(endpoint: Endpoint, mode: str, *names: str) -> dict[str, Any]:
    """A body with two tools and a choice that allows some of them."""
    functions = [WEATHER, {"name": "add", "parameters": {"type": "object"}}]
    if endpoint is Endpoint.CHAT:
        tools = [{"type": "function", "function": function} for function in functions]
        refs = [{"type": "function", "function": {"name": name}} for name in names]
        choice: dict[str, Any] = {"allowed_tools": {"mode": mode, "tools": refs}}
        return {
            "messages": ASK["messages"],
            "tools": tools,
            "tool_choice": choice | {"type": "allowed_tools"},
        }
    choice = {"mode": mode, "tools": [{"type": "function", "name": name} for name in names]}
    return {
        "input": "Hi",
        "tools": [{"type": "function"} | function for function in functions],
        "tool_choice": choice | {"type": "allowed_tools"},
    }


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES], ids=lambda endpoint: endpoint.name)
def test_allowed_tools(rig: Rig, endpoint: Endpoint) -> None:
    rig.whole(endpoint, allowed(endpoint, "auto", "add"), Script(["Hi"]))
    assert '"add"' in rig.engine.prompt and "get_weather" not in rig.engine.prompt
    assert rig.engine.params.structured_outputs is None
    rig.whole(endpoint, allowed(endpoint, "required", "get_weather"), Script([PARIS]))
    assert rig.engine.params.structured_outputs is not None
    tag = str(rig.engine.params.structured_outputs.structural_tag)
    assert "get_weather" in tag and "add" not in tag
    for bad, words in [
        (allowed(endpoint, "auto", "subtract"), "'subtract', which is not in tools"),
        (allowed(endpoint, "sometimes", "add"), "got 'sometimes'"),
        (allowed(endpoint, "auto"), "at least one function"),
        (allowed(endpoint, "auto", ""), "at least one function"),
        (allowed(endpoint, "auto", "add") | {"tools": None}, "'add', which is not in tools"),
    ]:
        with pytest.raises(InvalidRequest, match=words):
            rig.whole(endpoint, bad, Script(["Hi"]))


def test_without_tools_tags_are_the_callers_own_text(rig: Rig) -> None:
    asked = {"messages": ASK["messages"]}
    answer = rig.whole(Endpoint.CHAT, asked, Script([PARIS]))
    assert answer["choices"][0]["message"]["content"] == PARIS


def test_a_long_call_sends_signs_of_life(rig: Rig) -> None:
    """Proxies close a connection that is silent; the chunks are empty, because half a call says nothing."""
    events = rig.stream(Endpoint.CHAT, ASK, Script([PARIS]))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas.count({}) > 10 and sum("tool_calls" in delta for delta in deltas) == 1


def test_calls_that_are_no_objects_are_refused_before_the_engine(rig: Rig) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Par'}}
    history = [*ASK["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(InvalidRequest, match="are not JSON"):
        rig.whole(Endpoint.CHAT, {"messages": history}, Script(["x"]))
    item = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "[]"}
    with pytest.raises(InvalidRequest, match="no JSON object"):
        rig.whole(Endpoint.RESPONSES, {"input": [*ASK["messages"], item]}, Script(["x"]))
    block = {"type": "tool_use", "id": "c", "name": "get_weather", "input": [1]}
    blocks = [*ASK["messages"], {"role": "assistant", "content": [block]}]
    with pytest.raises(InvalidRequest, match="input"):
        rig.whole(Endpoint.MESSAGES, {"messages": blocks, "max_tokens": 9}, Script(["x"]))


def test_a_server_without_a_parser_answers_the_same_way() -> None:
    rig = Rig(demo=True, tool_call_parser="none")
    for text in ("", "Hello"):
        for endpoint, body in (
            (Endpoint.CHAT, {"messages": ASK["messages"]}),
            (Endpoint.RESPONSES, {"input": "Hi"}),
        ):
            whole = of_whole(endpoint, rig.whole(endpoint, body, Script([text])))
            usage = {"stream_options": {"include_usage": True}} if endpoint is Endpoint.CHAT else {}
            assert of_stream(endpoint, rig.stream(endpoint, body | usage, Script([text]))) == whole


def test_parsers_of_other_formats_stay() -> None:
    other = ParserManager.get_parser("llama3_json", None, True)
    assert folding(other) is other
    hermes = folding(ParserManager.get_parser("hermes", "qwen3", True))
    assert issubclass(hermes, FoldingParser) and hermes.reasoning_parser_cls is not None


LONG = {
    "tags": "<tool_call>" * 1200,
    "calls": f"I look.{PARIS}" * 190,
    "text": "Hello there. " * 1000,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES])
def test_a_long_answer_is_read_in_slices_and_says_what_the_stream_says(
    rig: Rig, endpoint: Endpoint, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: dict[str, Any] = ASK | {"max_tokens": 3900}
    if endpoint is Endpoint.RESPONSES:
        body = {"input": "Hi", "max_output_tokens": 3900, "tools": [{"type": "function"} | WEATHER]}
    elif endpoint is Endpoint.MESSAGES:
        tool = {"name": "get_weather", "input_schema": WEATHER["parameters"]}
        body = {"messages": ASK["messages"], "max_tokens": 3900, "tools": [tool]}
    script = Script([LONG[name]], steps=[4000])
    assert len(LONG[name]) > SLICE
    pieces: list[int] = []
    parse = FoldingParser.parse_delta

    def counted(parser: FoldingParser, *arguments: Any, **named: Any) -> Any:
        pieces.append(len(named["delta_text"] if "delta_text" in named else arguments[0]))
        return parse(parser, *arguments, **named)

    monkeypatch.setattr(FoldingParser, "parse_delta", counted)
    whole = of_whole(endpoint, rig.whole(endpoint, body, script))
    assert max(pieces) == SLICE and len(pieces) > 1
    usage = {"stream_options": {"include_usage": True}} if endpoint is Endpoint.CHAT else {}
    assert of_stream(endpoint, rig.stream(endpoint, body | usage, script)) == whole


def test_the_choices_of_an_answer_are_built_one_by_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Text {at}. {PARIS if at % 2 else ''}" for at in range(6)]
    asked: list[int] = []

    async def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(len(arguments[1].outputs))
        return await _answer(*arguments, **named)

    monkeypatch.setattr("server.engine.decoding.tool_calls.answers._answer", counted)
    options = {"n": 6, "temperature": 1, "max_tokens": 60}
    whole = rig.whole(Endpoint.CHAT, ASK | options, Script(texts))
    assert asked == [1] * 6
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    usage = {"stream_options": {"include_usage": True}}
    streamed = of_stream(Endpoint.CHAT, rig.stream(Endpoint.CHAT, ASK | options | usage, Script(texts)))
    assert of_whole(Endpoint.CHAT, whole) == streamed
    ids = [call["id"] for choice in whole["choices"] for call in choice["message"].get("tool_calls") or ()]
    assert len(ids) == 3 == len(set(ids))


def test_calls_above_the_bound_are_dropped_in_both(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CALLS == 512
    monkeypatch.setattr("server.engine.decoding.tool_calls.parser.MAX_CALLS", 20)
    script = Script(['<tool_call>{"name":"f"}</tool_call>' * 22], steps=[7])
    body = ASK | {"max_tokens": 900}
    for told in (
        of_whole(Endpoint.CHAT, rig.whole(Endpoint.CHAT, body, script)),
        of_stream(Endpoint.CHAT, rig.stream(Endpoint.CHAT, body, script)),
    ):
        assert len(told["choices"][0]["calls"]) == 20
