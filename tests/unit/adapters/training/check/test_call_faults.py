"""Each fault in tool calls is found once, with its place, and a right chat has none."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.training.check.call_faults import call_faults
from adapters.training.data.chat_template import Conversation

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "days": {"type": ["integer", "null"]},
    },
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
USER = {"role": "user", "content": "Weather?"}
SAID = {"role": "assistant", "content": "Rain."}


def call(arguments: dict[str, Any], name: str = "weather", ident: str = "") -> dict[str, Any]:
    found = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found | ({"id": ident} if ident else {})


def calls(*made: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(made)}


def result(ident: str = "") -> dict[str, Any]:
    return {"role": "tool", "content": "rain"} | ({"tool_call_id": ident} if ident else {})


def tool(parameters: Any, name: str = "weather") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


OSLO = call({"city": "Oslo"})
TWICE = calls(call({"city": "x"}, ident="a"), call({"city": "y"}, ident="a"))


@pytest.mark.parametrize(
    ("turns", "tools", "found"),
    [
        ([calls(OSLO), result(), SAID], [TOOL], []),
        ([calls(OSLO)], [TOOL], []),
        ([calls(call({"city": "Oslo", "unit": "c", "days": None}))], [TOOL], []),
        ([calls(call({}, "sun"))], [TOOL], [("undeclared_function", "tool_calls[0]: 'sun'; declared: weather")]),
        ([calls(OSLO)], [], [("calls_without_tools", "Line 7")]),
        ([calls(call({"city": "Oslo", "town": 1}))], [TOOL], [("unknown_argument", "`town`; the function has")]),
        ([calls(call({"city": "Oslo", "unit": "k"}))], [TOOL], [("invalid_arguments", "`unit`: 'k' is not one of")]),
        ([calls(call({"city": 3}))], [TOOL], [("invalid_arguments", "`city`: 3 is not of type 'string'")]),
        ([calls(call({}))], [TOOL], [("invalid_arguments", "'city' is a required property")]),
        ([calls(call({"city": "Oslo", "unit": None}))], [TOOL], [("null_padding", "`unit` is null")]),
        ([calls(OSLO)], [TOOL, TOOL], [("duplicate_tool", "Line 7: 'weather'")]),
        ([calls(OSLO)], [tool({"type": "dict"})], [("invalid_tool", "is no JSON schema")]),
        ([calls(OSLO)], [tool({"type": "array"})], [("invalid_tool", "is 'array', not object")]),
        ([calls(OSLO)], [tool({"properties": {"city": {}}, "required": ["x"]})], [
            ("invalid_tool", "`required` names `x`")]),
        ([SAID], [tool({}, "get weather")], [("invalid_tool", "other characters")]),
        ([SAID], [tool({"properties": {"city": {"type": 3}}})], [("invalid_tool", "`properties.city.type`: ")]),
        ([SAID], [tool({"properties": {"city": 3}})], [("invalid_tool", "`properties.city`: 3 is not of type")]),
        ([SAID], [tool([1])], [("invalid_tool", "is not an object")]),
        ([calls(OSLO)], [tool({"properties": {"city": {"$ref": "http://a/b"}}})], [
            ("invalid_arguments", "the schema cannot be applied")]),
        ([calls(call(OSLO["function"]["arguments"], ident="a")), result("b"), SAID], [TOOL], [
            ("unknown_call_id", "messages[2]: 'b'")]),
        ([TWICE, result("a"), result("a"), SAID], [TOOL], [
            ("duplicate_call_id", "messages[1]: 'a'")]),
        ([calls(OSLO, OSLO), result(), SAID], [TOOL], [("unanswered_call", "messages[1]: 2 calls, 1 results")]),
        ([calls(OSLO, OSLO), result()], [TOOL], [("unanswered_call", "2 calls, 1 results")]),
        ([calls(OSLO), USER, SAID], [TOOL], [("unanswered_call", "1 calls, 0 results")]),
        ([calls(OSLO), result(), result(), SAID], [TOOL], [("unanswered_call", "1 calls, 2 results")]),
    ],
)  # fmt: skip
def test_each_fault_is_found(turns: list[Any], tools: list[Any], found: list[tuple[str, str]]) -> None:
    faults = list(call_faults(Conversation((USER, *turns), tuple(tools), 7)))
    assert [fault.rule for fault in faults] == [rule for rule, _ in found]
    assert all(f.place.startswith("Line 7") for f in faults)
    for fault, (_, says) in zip(faults, found, strict=True):
        assert says in fault.place
