"""Which tool calls are constrained, and by what: the tags that vLLM makes at each level, and what they accept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.responses import FunctionTool
from vllm.exceptions import VLLMValidationError
from vllm.parser import abstract_parser
from vllm.tool_parsers import structural_tag_registry
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

from server.engine.decoding import tool_schemas
from server.engine.decoding.grammars.errors import GrammarRefused
from server.engine.decoding.grammars.prepared_grammar import validate_only_unprepared
from tests.unit.server.engine.decoding.grammars.grammar_rig import GrammarRig

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "multipleOf": 5}},
    "required": ["n"],
    "additionalProperties": False,
}
NAMED = {"type": "function", "function": {"name": "f"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "maxLength": 2}}}


@pytest.fixture(scope="module")
def grammar_rig(tmp_path_factory: pytest.TempPathFactory) -> GrammarRig:
    return GrammarRig(tmp_path_factory.mktemp("grammars"))


@pytest.fixture
def rig(grammar_rig: GrammarRig) -> Iterator[GrammarRig]:
    tool_schemas.follow("forced")
    yield grammar_rig
    tool_schemas.follow("auto")


def tool(parameters: Any = SCHEMA, name: str = "f", **more: Any) -> dict[str, Any]:
    function = {"name": name, **more} | ({} if parameters is None else {"parameters": parameters})
    return {"type": "function", "function": function}


def accepted(rig: GrammarRig, tag: str, *texts: str) -> list[str]:
    _, name = rig.prepared(structural_tag=tag)
    return [text for text in texts if rig.accepts(name, text)]


WRONG, RIGHT = GrammarRig.call_of('{"n": 4}'), GrammarRig.call_of('{"n": 5}')


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("strict", [{}, {"strict": None}, {"strict": False}, {"strict": True}], ids=str)
def test_a_forced_call_keeps_its_schema(rig: GrammarRig, choice: Any, strict: dict[str, Any]) -> None:
    tag = rig.tag(tools=[tool(**strict)], tool_choice=choice)
    assert accepted(rig, tag, WRONG, RIGHT, "Hello!", GrammarRig.call_of("true")) == [RIGHT]


def test_each_tool_has_its_own_schema(rig: GrammarRig) -> None:
    other = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]}
    tag = rig.tag(tools=[tool(), tool(other, "g"), tool(name="h")], tool_choice="required")
    calls = [WRONG.replace('"f"', f'"{name}"') for name in "fghi"]
    good = WRONG.replace('"f"', '"g"').replace('{"n": 4}', '{"s": "x"}')
    assert accepted(rig, tag, *calls, good, RIGHT + good) == [good, RIGHT + good]


def test_auto_constrains_strict_tools_only(rig: GrammarRig) -> None:
    assert rig.tag(tools=[tool()], tool_choice="auto") is None
    tag = rig.tag(tools=[tool(strict=True), tool(name="g")], tool_choice="auto")
    free = WRONG.replace('"f"', '"g"')
    text = "Let me see. "
    texts = (
        text,
        WRONG,
        RIGHT,
        text + WRONG,
        text + RIGHT,
        free,
        free.replace('{"n": 4}', "4"),
        RIGHT + text + RIGHT,
    )
    assert accepted(rig, tag, *texts) == [text, RIGHT, text + RIGHT, free, RIGHT + text + RIGHT]


UNTYPED = {"properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "parameters", [None, {}, UNTYPED, {"$ref": "#/$defs/a", "$defs": {"a": UNTYPED}}], ids=str
)
def test_arguments_are_an_object(rig: GrammarRig, parameters: Any) -> None:
    tag = rig.tag(tools=[tool(parameters)], tool_choice="required")
    good = GrammarRig.call_of('{"a": 1}')
    assert accepted(rig, tag, *map(GrammarRig.call_of, ("1", "true", '"a"', "[]")), good) == [good]


@pytest.mark.parametrize("types", ["string", ["string", "null"]], ids=str)
def test_parameters_that_are_no_object_are_refused(rig: GrammarRig, types: Any) -> None:
    with pytest.raises(VLLMValidationError, match="'f' must be the schema of an object"):
        rig.tag(tools=[tool({"type": types})], tool_choice="required")


def test_one_call_without_parallel_calls(rig: GrammarRig) -> None:
    for more, most in (({}, 2), ({"parallel_tool_calls": False}, 1)):
        tag = rig.tag(tools=[tool()], tool_choice="required", **more)
        assert accepted(rig, tag, RIGHT, RIGHT + RIGHT) == [RIGHT, RIGHT + RIGHT][:most]


def test_a_format_beside_strict_tools_is_kept(rig: GrammarRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM asks xgrammar on the event loop whether it supports the format, and drops the tools if it does not."""
    for name in ("_xgrammar_supports", "structured_outputs_to_format"):
        monkeypatch.setattr(abstract_parser, name, getattr(abstract_parser, name))
    validate_only_unprepared()
    tag = rig.tag(tools=[tool(strict=True)], tool_choice="auto", response_format=FORMAT)
    assert accepted(rig, tag, WRONG, RIGHT, '"ab"', '"abc"', "ab") == [RIGHT, '"ab"']


def test_a_lark_grammar_beside_strict_tools_is_kept(rig: GrammarRig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_xgrammar_supports", "structured_outputs_to_format"):
        monkeypatch.setattr(abstract_parser, name, getattr(abstract_parser, name))
    validate_only_unprepared()
    schema = SCHEMA | {"properties": {"n": {"type": "integer"}}}
    grammar = {"grammar": 'start: "yes" | "no"'}
    tag = rig.tag(tools=[tool(schema, strict=True)], tool_choice="auto", structured_outputs=grammar)
    assert accepted(rig, tag, RIGHT, "yes", "no", "maybe") == [RIGHT, "yes", "no"]


@pytest.mark.parametrize(
    ("level", "forced", "auto"),
    [("forced", True, None), ("auto", False, None), ("function", False, False), ("parameter", True, True)],
)
def test_levels(grammar_rig: GrammarRig, level: Any, forced: bool, auto: bool | None) -> None:
    """Whether the schema of a tool without `strict` is enforced; None: its calls are not constrained at all."""
    assert tool_schemas.vllm_level(level) == ("auto" if level == "forced" else level)
    grammar_rig._parser.tool_strict_level = ToolStrictLevel.from_name(tool_schemas.vllm_level(level))
    tool_schemas.follow(level)
    try:
        for choice, enforced in (("required", forced), ("auto", auto)):
            tag = grammar_rig.tag(tools=[tool()], tool_choice=choice)
            assert (tag is None) == (enforced is None)
            if tag is not None:
                assert accepted(grammar_rig, tag, WRONG, RIGHT) == ([RIGHT] if enforced else [WRONG, RIGHT])
    finally:
        grammar_rig._parser.tool_strict_level = ToolStrictLevel.AUTO
        tool_schemas.follow("auto")


def test_tools_of_responses(rig: GrammarRig) -> None:
    tools = [
        FunctionTool(name="f", parameters=SCHEMA, type="function", strict=strict) for strict in (None, False)
    ]
    resolved = structural_tag_registry.resolve_tool_strictness(tools, "required", ToolStrictLevel.AUTO)
    assert resolved is not None and [each.strict for each in resolved] == [True, True]
    assert [each.strict for each in tools] == [None, False], "the request itself stays as it is"


SPACES = '{"n":%s5}'


@pytest.mark.parametrize(
    ("schema", "most"), [(SCHEMA | {"properties": {"n": {"type": "integer"}}}, 16), (SCHEMA, 1)]
)
@pytest.mark.parametrize("form", ["tool", "earlier", "response_format"])
def test_white_space_is_bounded_everywhere(rig: GrammarRig, form: str, schema: Any, most: int) -> None:
    """xgrammar takes up to 16 characters; guidance writes on one line."""
    begin, end = '<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>"
    tags = {
        "tool": lambda: {"structural_tag": rig.forced_call(schema)},
        "earlier": lambda: {
            "structural_tag": json.dumps(
                {"triggers": ["<tool_call>"], "structures": [{"begin": begin, "schema": schema, "end": end}]}
            )
        },
        "response_format": lambda: {"json": schema},
    }
    _, name = rig.prepared(**tags[form]())
    for count, is_right in ((0, True), (1, True), (16, most == 16), (17, False), (60, False)):
        text = SPACES % (" " * count)
        assert rig.accepts(name, text if form == "response_format" else rig.call_of(text)) == is_right, count


@pytest.mark.parametrize(
    "tag",
    [
        [],
        5,
        {},
        {"structures": [{"begin": "a"}], "triggers": []},
        {"structures": 5, "triggers": []},
        {"type": "structural_tag", "format": {"type": "grammar"}},
        {"type": "structural_tag", "format": {"type": "grammar", "grammar": "start: )"}},
        {"type": "structural_tag", "format": {"type": "regex"}},
        {"type": "structural_tag", "format": {"type": "regex", "pattern": 5}},
        {"type": "structural_tag", "format": {"type": "tag", "begin": 5}},
        {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": 5}},
        {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": {"type": "strng"}}},
        {"type": "structural_tag", "format": {"type": "tags_with_separator", "tags": [5]}},
    ],
    ids=str,
)
def test_a_tag_that_is_not_valid_is_refused(rig: GrammarRig, tag: Any) -> None:
    with pytest.raises(GrammarRefused):
        rig.prepared(structural_tag=json.dumps(tag))
