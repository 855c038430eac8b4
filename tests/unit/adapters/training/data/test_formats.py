"""Chats in all forms become the same conversation; what is no chat is refused with what converts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import demo
from adapters.training.data.chat_template import Conversation, Renderer
from adapters.training.data.formats.function_calling import read_bracketed_calls
from adapters.training.data.reader import read_conversations, read_lines
from adapters.training.data.tool_calls import looks_like_bare_call, parse_calls, split_calls
from adapters.training.errors import DataError

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "weather", "arguments": {"city": "Quito"}}
WANTED = [
    ("system", "Be brief."),
    ("user", "Weather in Quito?"),
    ("assistant", ""),
    ("tool", "rain"),
    ("assistant", "It rains."),
]
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Quito?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ],
    "tools": [TOOL],
}
SHAREGPT = {
    "system": "Be brief.",
    "tools": json.dumps([FUNCTION]),
    "conversations": [
        {"from": "human", "value": "Weather in Quito?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ],
}
PAIR = {
    "prompt": OPENAI["messages"][:4],
    "completion": OPENAI["messages"][4:],
    "tools": [TOOL],
}
LEGACY = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        OPENAI["messages"][1],
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "weather", "arguments": json.dumps(CALL["arguments"])},
        },
        {"role": "function", "name": "weather", "content": "rain"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]},
    ],
    "functions": [FUNCTION],
}
ALTERNATE = {
    "conversations": [{"role": m["role"], "content": m["content"]} | m for m in OPENAI["messages"]],
    "tools": [TOOL],
}
AS_TEXT = {
    "messages": [
        *OPENAI["messages"][:2],
        {"role": "assistant", "content": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        *OPENAI["messages"][3:],
    ],
    "tools": [TOOL],
}


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(demo.MODEL_DIR), "<|im_end|>")


@pytest.mark.parametrize(
    ("row", "form"),
    [
        (OPENAI, "messages"),
        (SHAREGPT, "sharegpt"),
        (PAIR, "pairs"),
        (AS_TEXT, "messages"),
        (LEGACY, "messages"),
        (ALTERNATE, "sharegpt"),
    ],
    ids=["openai", "sharegpt", "pair", "calls as text", "legacy functions", "conversations with roles"],
)
def test_every_form_gives_the_same_ids(tmp_path: Path, renderer: Renderer, row: Any, form: str) -> None:
    (plain,) = read_conversations(write(tmp_path, OPENAI))
    (chat,) = read_conversations(write(tmp_path, row))
    assert chat.form == form
    assert [(m["role"], m["content"]) for m in chat.messages] == WANTED
    assert chat.tools == (TOOL,)
    assert [(t.prompt, t.target) for t in renderer.turns(chat)] == [
        (t.prompt, t.target) for t in renderer.turns(plain)
    ]


def test_a_call_is_trained_as_the_server_parses_it(tmp_path: Path, renderer: Renderer) -> None:
    (chat,) = read_conversations(write(tmp_path, AS_TEXT))
    text = renderer.tokenizer.decode(next(renderer.turns(chat)).target)
    assert text == f"<tool_call>\n{json.dumps(CALL)}\n</tool_call><|im_end|>"
    assert parse_calls(text) == [CALL]


def test_a_plain_pair_is_one_question_and_one_answer(tmp_path: Path) -> None:
    (chat,) = read_conversations(write(tmp_path, {"prompt": "Hi", "completion": "Hello", "system": "Short."}))
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x"}, "`prompt` and `completion`"),
        ({"conversations": []}, "`conversations` must be a list"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, r"conversations\[0\]: `from` is 'robot'"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "function_call is not JSON"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]: `value` is missing"),
        ({"conversations": [{"from": ["x"], "value": "x"}]}, r"`from` is \['x'\]"),
        ({"prompt": 1, "completion": "x"}, "`prompt` must be text or a list"),
        (
            OPENAI | {"tools": [{"type": "function"}]},
            r"tools\[0\]: `function` must be an object whose `name`",
        ),
        ({"instruction": "", "output": "x"}, "`instruction` is empty"),
        ({"instruction": 3, "output": "x"}, "`instruction` must be text"),
        ({"instruction": "x", "output": "y", "history": ["a"]}, "`history` must be a list of pairs"),
        ({"query": "x", "tools": "[]", "answers": "[]"}, "`answers` must be a list with at least one call"),
        ({"query": "x", "tools": "[]", "answers": "[{]"}, "`answers` is not JSON"),
        ({"prompt": "x", "completion": "y", "label": False}, "`label` is false"),
        ({"prompt": "x", "completion": "y", "system": 3}, "`system` must be text"),
        (
            {"prompt": "x", "chosen": "y", "rejected": "z"},
            r"preference row.*jq -c '\{prompt, completion: .chosen\}'",
        ),
        ({"chosen": [], "rejected": []}, r"preference row.*jq -c '\{messages: .chosen\}'"),
        (
            {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []},
            r"preference row.*\.input\.messages \+ \.preferred_output",
        ),
        ({"custom_id": "1", "body": {"messages": []}}, r"inside `body`: jq -c '\.body'"),
        ({"data": [{"messages": []}]}, r"inside `data`: jq -c '\.data\[\]'"),
        ({"dialog": [{"role": "user", "content": "x"}]}, r"jq -c '\{messages: \.dialog\}'"),
        ({"title": "x", "the body": "y"}, r"keys `title`, `the body`.*completion: \.\[\"the body\"\]"),
        ({"text": "<|im_start|>user"}, "rendered with a template already"),
        ({"role": "user", "content": "x"}, "is one message, not a chat"),
        ({}, "has no keys"),
        (OPENAI | {"tools": "[{"}, "`tools` is not JSON"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": "<tool_call>{"},
                ]
            },
            "must hold one JSON object",
        ),
    ],
)
def test_an_unknown_format_is_an_error(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_conversations(write(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "form", "turns"),
    [
        ({"prompt": "a", "response": "b"}, "pairs", ["a", "b"]),
        (
            {"prompt": "a", "response": "b", "messages": None, "completion": None, "tools": "null"},
            "pairs",
            ["a", "b"],
        ),
        ({"question": "a", "answer": "b"}, "pairs", ["a", "b"]),
        ({"input": "a", "output": "b"}, "pairs", ["a", "b"]),
        ({"query": "a", "response": "b"}, "pairs", ["a", "b"]),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca", ["a", "b"]),
        ({"instruction": "a", "input": "x", "output": "b", "text": "t"}, "alpaca", ["a\n\nx", "b"]),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "alpaca", ["c", "d", "a", "b"]),
        ({"instruction": "a", "output": "b", "system": "s"}, "alpaca", ["s", "a", "b"]),
        ({"prompt": "a", "completion": "b", "label": True}, "pairs", ["a", "b"]),
    ],
)
def test_questions_and_answers_have_many_names(tmp_path: Path, row: Any, form: str, turns: list[str]) -> None:
    (chat,) = read_conversations(write(tmp_path, row))
    assert (chat.form, [m["content"] for m in chat.messages]) == (form, turns)


def test_xlam_becomes_calls_and_json_schema(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "query": "Events in Oslo?",
        "tools": json.dumps(
            [
                {
                    "name": "live events",
                    "description": "Events",
                    "parameters": {
                        "city": {"description": "City", "type": "str"},
                        "limit": {"description": "How many", "type": "int, optional", "default": 5},
                        "kinds": {"description": "Which", "type": "Optional[List[str]]", "default": None},
                        "any": {"description": "x", "type": "Union[int, float]"},
                    },
                }
            ]
        ),
        "answers": json.dumps([{"name": "live events", "arguments": {"city": "Oslo"}}]),
    }
    (chat,) = read_conversations(write(tmp_path, row))
    assert chat.form == "xlam"
    assert chat.messages[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "live_events", "arguments": {"city": "Oslo"}}}
    ]
    parameters = chat.tools[0]["function"]["parameters"]
    assert parameters["required"] == ["city", "any"]
    types = {name: p.get("type") for name, p in parameters["properties"].items()}
    assert types == {"city": "string", "limit": "integer", "kinds": "array", "any": ["integer", "number"]}
    assert parameters["properties"]["kinds"]["items"] == {"type": "string"}


def test_toolace_becomes_calls_and_tools(tmp_path: Path) -> None:
    function = {
        "name": "Market Trends API",
        "description": "Trends",
        "parameters": {"type": "dict", "properties": {"kind": {"type": "float"}}, "required": ["kind"]},
        "required": None,
    }
    row = {
        "system": f"You can call functions:\n[{json.dumps(function)}]\nUse the form [f(x=1)].",
        "conversations": [
            {"from": "user", "value": "Trends?"},
            {
                "from": "assistant",
                "value": '[Market Trends API(kind="a, (b)", n=[1, {"k": true}]), Market Trends API()]',
            },
            {"from": "tool", "value": "[]"},
            {"from": "assistant", "value": "[Here](x) is no call."},
        ],
    }
    (chat,) = read_conversations(write(tmp_path, row))
    assert chat.form == "toolace" and "system text" in chat.notes[0]
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "assistant"]
    calls = [call["function"] for call in chat.messages[1]["tool_calls"]]
    assert calls == [
        {"name": "Market_Trends_API", "arguments": {"kind": "a, (b)", "n": [1, {"k": True}]}},
        {"name": "Market_Trends_API", "arguments": {}},
    ]
    assert chat.tools[0]["function"]["parameters"]["properties"] == {"kind": {"type": "number"}}
    assert chat.tools[0]["function"]["parameters"]["type"] == "object"


@pytest.mark.parametrize(
    "text", ["[f(1)]", "[g(a=1)]", "[f(a=)]", "[f(a=1", "[f(a=1) x]", "f(a=1)", "[]", "[f(a=b)]"]
)
def test_what_is_no_bracketed_call_stays_text(text: str) -> None:
    assert read_bracketed_calls(text, {"f"}) is None


FLAGGED = {"weight": 0, "loss": False, "train": False, "training": 0.0}


@pytest.mark.parametrize(("flag", "off"), FLAGGED.items())
def test_a_flag_switches_a_turn_off_in_every_form(
    tmp_path: Path, renderer: Renderer, flag: str, off: Any
) -> None:
    def turns(key: str, value: str, speakers: tuple[str, str]) -> list[dict[str, Any]]:
        return [
            {key: speakers[0], value: "a"},
            {key: speakers[1], value: "b", flag: off},
            {key: speakers[0], value: "c"},
            {key: speakers[1], value: "d", flag: not off},
        ]

    rows = [
        {"messages": turns("role", "content", ("user", "assistant"))},
        {"conversations": turns("from", "value", ("human", "gpt"))},
        {"conversations": turns("role", "content", ("user", "assistant"))},
        {"prompt": turns("role", "content", ("user", "assistant"))[:3], "completion": "d"},
        {
            "system": 'Functions: [{"name": "f", "parameters": {}}]',
            "conversations": turns("from", "value", ("user", "assistant")),
        },
    ]
    for row, chat in zip(rows, read_conversations(write(tmp_path, *rows)), strict=True):
        trained = [t.answer["content"] for t in renderer.turns(chat) if t.sample().trained_tokens]
        assert trained == ["d"], row
        assert not any(flag in m for m in chat.messages if flag != "weight")


@pytest.mark.parametrize(("flag", "off"), FLAGGED.items())
def test_a_flag_of_the_row_switches_its_turns_off(
    tmp_path: Path, renderer: Renderer, flag: str, off: Any
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    xlam = {"query": "a", "tools": json.dumps([FUNCTION]), "answers": json.dumps([CALL])}
    own = [*turns, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}]
    rows = [
        {"messages": turns}, {"conversations": turns}, {"prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b"}, xlam, {"messages": own},
    ]  # fmt: skip
    chats = read_conversations(write(tmp_path, *(row | {flag: off} for row in rows)))
    trained = [[bool(t.sample().trained_tokens) for t in renderer.turns(chat)] for chat in chats]
    assert trained == [[False], [False], [False], [False], [False], [False, True]]
    kept = read_conversations(write(tmp_path, *(row | {flag: not off} for row in rows)))
    assert all(t.sample().trained_tokens for chat in kept for t in renderer.turns(chat))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"weight": 0.5}, "`weight` is 0.5; it must be 0 or 1"),
        ({"weight": 2}, "`weight` is 2"),
        ({"loss": "false"}, "`loss` is 'false'"),
        ({"train": []}, r"`train` is \[\]"),
        ({"weight": 1, "train": False}, "`weight` is 1 and `train` is False, which contradict"),
    ],
)
def test_odd_flags_are_told(tmp_path: Path, flags: Any, says: str) -> None:
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"} | flags]}
    with pytest.raises(DataError, match=says):
        read_conversations(write(tmp_path, row))


def test_what_is_ignored_is_noted(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [
        {"messages": [user | {"train": True}, answer]},
        {"messages": [user, answer | {"weight": 0}]},
        {"messages": [answer, user, answer]},
        {"messages": [user, answer], "loss": 0.53},
    ]
    notes = [chat.notes for chat in read_conversations(write(tmp_path, *rows))]
    assert "a user message is trained" in notes[0][0]
    assert "every assistant turn is switched off" in notes[1][0]
    assert "begins with an assistant turn" in notes[2][0]
    assert "`loss` beside the messages is 0.53 and not read" in notes[3][0]


def test_a_greeting_is_not_trained_and_the_rest_is(tmp_path: Path, renderer: Renderer) -> None:
    row = {
        "conversations": [
            {"from": "gpt", "value": "Hello, how can I help?"},
            {"from": "human", "value": "Weather?"},
            {"from": "gpt", "value": "Rain."},
        ]
    }
    (chat,) = read_conversations(write(tmp_path, row))
    (turn,) = renderer.turns(chat)
    assert turn.answer["content"] == "Rain." and len(turn.before) == 2
    with pytest.raises(
        DataError, match=r"messages\[0\]: the only assistant turn has no user message before it"
    ):
        read_conversations(write(tmp_path, {"messages": [OPENAI["messages"][4], OPENAI["messages"][1]]}))


def test_a_refusal_is_an_answer(tmp_path: Path) -> None:
    rows = [
        {"messages": [OPENAI["messages"][1], {"role": "assistant", "content": None, "refusal": "I cannot."}]},
        {
            "messages": [
                OPENAI["messages"][1],
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]},
            ]
        },
    ]
    assert [c.messages[1]["content"] for c in read_conversations(write(tmp_path, *rows))] == ["I cannot."] * 2


def test_good_lines_are_read_past_bad_ones(tmp_path: Path) -> None:
    found = read_lines(write(tmp_path, {"text": "x"}, OPENAI, {"messages": 3}))
    assert [type(row) for row in found] == [DataError, Conversation, DataError]


def test_text_around_calls_is_kept() -> None:
    text, calls = split_calls('I look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    assert (text, [c["function"]["name"] for c in calls]) == ("I look.", ["f"])
    assert looks_like_bare_call('{"name": "f", "arguments": {}}', {"f"})
    assert not looks_like_bare_call('{"name": "g"}', {"f"})
    assert not looks_like_bare_call("f", {"f"})
