"""Grammars that no finite answer matches are found, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm.v1.structured_output.backend_types import StructuredOutputOptions as Kind

from server.engine.decoding.grammars.endless import is_endless

TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "value": {"type": "integer"}},
    "required": ["value"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"$ref": "#"}}
PAIR = {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]}
NEVER: dict[str, Any] = {
    "itself": {"$ref": "#"},
    "a definition of itself": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
    "all of itself": {"allOf": [{"$ref": "#"}]},
    "any of itself": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "requires itself": TREE | {"required": ["left"]},
    "a list with itself": LIST | {"minItems": 1},
    "two that require each other": PAIR | {"$defs": {"B": PAIR}},
    "with a keyword that xgrammar drops": TREE | {"required": ["left"], "patternProperties": {"^x": {}}},
}
SOMETIMES: dict[str, Any] = {
    "an optional child": TREE,
    "an empty list": LIST,
    "a child or null": TREE
    | {"properties": {"left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["left"]},
    "anything": {},
    "not a schema": [],
}
ENDLESS_GRAMMARS = (
    "root ::= root",
    'root ::= "a" root',
    "start: start",
    'root ::= b+\nb ::= "x" b',
    "start: a\na: a",
)
FINITE_GRAMMARS = (
    'root ::= "a" root | ""',
    "root ::= b*\nb ::= b",
    'start: "a" start | "b"',
    "none",
    'root ::= "a"{3}',
)


@pytest.mark.parametrize("name", NEVER)
def test_a_schema_that_requires_itself_is_endless(name: str) -> None:
    assert is_endless(Kind.JSON, json.dumps(NEVER[name]))


@pytest.mark.parametrize("name", SOMETIMES)
def test_a_schema_that_may_contain_itself_is_not(name: str) -> None:
    assert not is_endless(Kind.JSON, json.dumps(SOMETIMES[name]))


@pytest.mark.parametrize("text", ENDLESS_GRAMMARS)
def test_a_grammar_without_a_last_token_is_endless(text: str) -> None:
    assert is_endless(Kind.GRAMMAR, text)


@pytest.mark.parametrize("text", FINITE_GRAMMARS)
def test_a_grammar_with_one_is_not(text: str) -> None:
    assert not is_endless(Kind.GRAMMAR, text)


@pytest.mark.parametrize(("schema", "expected"), [(NEVER["itself"], True), (TREE, False)])
def test_a_structural_tag_is_as_endless_as_its_schema(schema: object, expected: bool) -> None:
    content = {"type": "json_schema", "json_schema": schema}
    tag = {
        "type": "structural_tag",
        "format": {"type": "tag", "begin": "<a>", "content": content, "end": "</a>"},
    }
    assert is_endless(Kind.STRUCTURAL_TAG, json.dumps(tag)) is expected


def test_a_regular_expression_ends() -> None:
    assert not is_endless(Kind.REGEX, "(a|b)*c{3,}")
