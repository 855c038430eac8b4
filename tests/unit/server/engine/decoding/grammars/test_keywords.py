"""What the libraries are known to drop or to misread is enforced or refused, and what clients send is served."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from example_counts import examples

from server.engine.decoding.grammars.errors import GrammarRefused
from tests.unit.server.engine.decoding.grammars.grammar_rig import GrammarRig

WALKS = examples(8, least=1)
TWO = {"a": {"type": "integer"}, "b": {"type": "integer"}}


def tagged(kind: int | None, name: str = "k", **more: Any) -> dict[str, Any]:
    """A branch that a property tells from others, without `type` where it has no kind."""
    properties = {name: {"const": kind}}
    return {"properties": properties, "required": [name], **more}


#: Each part has a length that is allowed, all together have not.
LONG_MAIL = '"' + "a" * 32 + "@" + ".".join(["b" * 63] * 4) + '"'
#: Schemas and texts that no answer may be; each was accepted by one library.
WRONG: list[tuple[dict[str, Any], list[str]]] = [
    # strings
    ({"type": "string", "minLength": 2}, ['"a"', '"a\tb"', '"a\x01b"']),
    ({"type": "string", "maxLength": 2}, ['"abc"', '"\t"']),
    ({"type": "string", "pattern": "^[a-c]+$", "maxLength": 2}, ['"abc"', '"d"']),
    ({"type": "string", "pattern": '^"a"$'}, ['""a""']),
    ({"type": "string", "pattern": "^a(\\.[0-9]{1,2})?$"}, ['"a5"', '"a55"']),
    ({"type": "string", "pattern": "^a\\\\b$"}, ['"a\\b"']),
    ({"type": "string", "pattern": "^a\\tb$"}, ['"a\tb"']),
    ({"type": "string", "pattern": "^a\nb$"}, ['"a\nb"']),
    ({"type": "string", "pattern": "^(?!ab)a.$"}, ['"ab"']),
    ({"type": "string", "pattern": "^a(?=b).$"}, ['"ac"']),
    ({"type": "string", "pattern": "^[[:alpha:]]$"}, ['"x"']),
    ({"type": "string", "pattern": "a$b|^c"}, ['"ab"']),
    ({"type": "string", "pattern": "\\bab"}, ['"bab"']),
    ({"type": "string", "format": "date"}, ['"2026-11-31"', '"2026-02-29"', '"1900-02-29"']),
    ({"type": "string", "format": "date", "pattern": "^2"}, ['"1999-01-01"', '"2026-11-31"', '"2026-06-31"']),
    ({"type": "string", "format": "time"}, ['"12:00:60Z"', '"24:00:00Z"']),
    ({"type": "string", "format": "date-time"}, ['"2026-01-01T12:00:60Z"']),
    ({"type": "string", "format": "date-time", "pattern": "^2"}, ['"2026-01-01T12:00:60Z"',
                                                                   '"1999-01-01T00:00:00Z"']),
    ({"type": "string", "format": "ipv4"}, ['"1.2.3.099"', '"1.2.3"']),
    ({"type": "string", "format": "hostname"}, ['"' + ".".join(["a" * 60] * 5) + '"', '"a b"']),
    ({"type": "string", "format": "hostname", "maxLength": 3}, ['"abcd"']),
    ({"type": "string", "format": "json-pointer"}, ['"a"', '"/\n"', '"/~2"']),
    ({"type": "string", "format": "relative-json-pointer"}, ['"/a"', '"0/\n"']),
    ({"type": "string", "format": "email", "maxLength": 6}, ['"abc@de.fr"']),
    ({"type": "string", "format": "email"}, ['"a"', '"a@b c.de"', '"' + "a" * 65 + '@b.de"', LONG_MAIL]),
    ({"type": "string", "format": "email", "pattern": "b$"}, [LONG_MAIL, '"a@b.c"']),
    ({"type": "string", "format": "ipv6"}, ['"::1.1.09.0"']),
    ({"type": "string", "format": "iri"}, ['" "']),
    ({"type": "string", "format": "regex"}, ['"("']),
    # numbers
    ({"type": "integer", "multipleOf": 7}, ["8"]),
    ({"type": "number", "minimum": 1, "exclusiveMaximum": 2}, ["0.5", "2"]),
    ({"minimum": 5}, ["4"]),
    ({"type": ["integer", "string"], "minimum": 5, "maxLength": 1}, ["4", '"ab"']),
    # values
    ({"enum": [1, 2, 3], "not": {"const": 1}}, ["1"]),
    ({"type": "string", "not": {"const": "a"}}, ['"a"']),
    ({"enum": ["a", "ab"], "maxLength": 1}, ['"ab"']),
    ({"enum": [1, "a"], "type": "string"}, ["1"]),
    ({"const": 3, "maximum": 2}, ["3"]),
    # conditions
    ({"type": "integer", "if": {"minimum": 5}, "then": {"multipleOf": 2}}, ["7"]),
    ({"type": "object", "properties": TWO, "dependentRequired": {"a": ["b"]}}, ['{"a": 1}']),
    ({"type": "object", "properties": TWO, "dependentSchemas": {"a": {"required": ["b"]}}}, ['{"a": 1}']),
    ({"type": "object", "properties": TWO, "dependencies": {"a": ["b"]}}, []),
    # objects
    ({"type": "object", "properties": TWO, "required": ["c"]}, ["{}", '{"a": 1}']),
    ({"type": "object", "required": ["c"]}, ["{}"]),
    ({"type": "object", "required": ["c"], "additionalProperties": False}, ["{}"]),
    ({"type": "object", "properties": TWO, "additionalProperties": {"type": "string"}}, ['{"a": "x"}', '{"c": 1}']),
    ({"type": "object", "properties": TWO, "minProperties": 1}, ["{}"]),
    ({"type": "object", "minProperties": 2}, ['{"c": 1, "c": 2}']),
    ({"type": "object", "required": ["a"], "minProperties": 3}, ['{"a": 1, "c": 1, "c": 2}']),
    ({"type": "object", "required": ["a"], "minProperties": 2}, ['{"a": 1}', '{"a": 1, "a": 2}']),
    ({"type": "object", "properties": TWO, "minProperties": 2}, ['{"a": 1, "c": 1}', '{"a": 1, "a": 1}']),
    ({"type": "object", "patternProperties": {"^a": {}}, "minProperties": 2}, ['{"a": 1, "a": 2}']),
    ({"type": "object", "properties": TWO, "maxProperties": 1}, ['{"a": 1, "b": 2}']),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, ['{"ab": "x"}']),
    ({"type": "object", "properties": TWO, "patternProperties": {"^a$": {"maximum": 3}}}, ['{"a": 4}']),
    ({"type": "object", "propertyNames": {"maxLength": 1}}, ['{"ab": 1}', '{"\t": 1}']),
    ({"type": "object", "propertyNames": {"pattern": "^a"}, "additionalProperties": {"const": 1}}, ['{"b": 1}']),
    ({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 2}}, ['{"abc": 1}', '{"b": 1}']),
    ({"type": "object", "properties": TWO, "propertyNames": {"enum": ["a"]}}, ['{"b": 1}']),
    ({"type": "object", "propertyNames": {"enum": ["a"]}, "required": ["b"]}, ["{}", '{"b": 1}']),
    ({"allOf": [{}], "unevaluatedProperties": {"enum": [True]}}, ['{"a": false}']),
    ({"allOf": [{}], "unevaluatedProperties": False}, ['{"a": false}']),
    ({"anyOf": [{"type": "object"}, {"type": "array"}], "unevaluatedItems": False}, ["[1]"]),
    ({"$ref": "#/$defs/x", "$defs": {"x": {}}, "unevaluatedProperties": False}, ['{"c": 1}']),
    ({"type": "object", "properties": TWO, "unevaluatedProperties": False, "anyOf": [{"minProperties": 1}]}, ["{}"]),
    # arrays
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, ["[1, 1]"]),
    ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}}, ["[2]"]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1}, ["[]", "[1, 2]"]),
    ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, ['["a"]', "[1, 2]"]),
    # several schemas for one value
    ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, ["2", '"a"']),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}], "minLength": 2}, ['"a"']),
    ({"oneOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]}, ["4"]),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["4"]),
    ({"oneOf": [tagged(1, maxLength=3), tagged(2, maxLength=3)]}, ['"a"', "5"]),
    ({"oneOf": [tagged(1, type="object"), tagged(2)]}, ['{"k": 3}']),
    ({"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": {"type": "integer"}}}, ["4"]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "minLength": 2}}}, ['"a"']),
    ({"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a", "type": "integer"}}}, ['"a"']),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "texts"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_no_keyword_is_dropped(rig: GrammarRig, schema: dict[str, Any], texts: list[str]) -> None:
    inner = {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}
    if "$defs" in schema:
        inner["$defs"] = schema["$defs"]
    for asked in (schema, inner):
        validator = jsonschema_rs.validator_for(with_draft(asked), validate_formats=True)
        for constraint in [{"json": asked}] + [{"structural_tag": rig.forced_call(inner)}] * (asked is inner):
            try:
                _, name = rig.prepared(**constraint)
            except GrammarRefused:
                continue
            is_call = "structural_tag" in constraint
            for text in texts:
                text = f'{{"x": {text}}}' if asked is inner else text
                assert not rig.accepts(name, rig.call_of(text) if is_call else text), text
            for seed in range(WALKS):
                answer = rig.walk(name, random.Random(seed), json.dumps(schema))
                if answer is not None:
                    answer = rig.arguments(answer) if is_call else answer
                    assert validator.is_valid(json.loads(answer)), answer


def with_draft(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the draft that a list of items belongs to."""
    return (
        {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
        if '"items": [' in json.dumps(schema)
        else schema
    )


DRAFT_4 = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "integer",
    "minimum": 3,
    "exclusiveMinimum": True,
}
DATE = {"type": "string", "format": "date-time"}
#: What pydantic, Zod and other generators write, an answer, and the library that enforces it.
SERVED: list[tuple[dict[str, Any], Any, str]] = [
    ({"type": "object", "properties": TWO, "required": ["a"], "additionalProperties": False}, {"a": 1}, "xgrammar"),
    ({"type": "object", "properties": {"at": DATE}, "required": ["at"]}, {"at": "2026-01-31T10:00:00Z"}, "guidance"),
    ({"type": "object", "properties": {"n": {"type": "string", "maxLength": 4}}}, {"n": "ab\n"}, "guidance"),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, None, "xgrammar"),
    ({"type": "string", "format": "date"}, "2000-02-29", "guidance"),
    ({"type": "string", "format": "date"}, "2026-12-31", "guidance"),
    ({"type": "string", "format": "time"}, "12:30:59.5+01:00", "guidance"),
    ({"type": "string", "format": "date-time"}, "2026-10-31T23:59:59Z", "guidance"),
    ({"type": "string", "format": "ipv4"}, "10.0.255.99", "guidance"),
    ({"type": "string", "format": "uuid"}, "123e4567-e89b-42d3-a456-426614174000", "xgrammar"),
    ({"type": "string", "format": "password"}, "a", "xgrammar"),
    ({"type": "string", "format": "email"}, "jane.doe+x@mail.example.com", "guidance"),
    ({"type": "string", "format": "uri"}, "https://a.example/b?c=1#d", "xgrammar"),
    ({"type": "string", "pattern": "[0-9]{3}"}, "No. 123 x", "guidance"),
    ({"type": "string", "format": "json-pointer"}, "/a/0", "guidance"),
    ({"type": "string", "format": "hostname"}, "a.example", "guidance"),
    ({"type": "integer", "format": "int64"}, 5, "xgrammar"),
    ({"type": "string", "pattern": "^\\p{L}+$"}, "é", "guidance"),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}}, {"b": 1},
     "xgrammar"),
    ({"type": "object", "propertyNames": {"$ref": "#/$defs/K"}, "$defs": {"K": {"enum": ["a"], "type": "string"}}},
     {"a": [1]}, "xgrammar"),
    ({"type": "object", "propertyNames": {"minLength": 1, "maxLength": 2}, "additionalProperties": {"type": "null"}},
     {"ab": None}, "guidance"),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False}, {"ab": 1},
     "guidance"),
    ({"oneOf": [tagged(1, type="object"), tagged(2, type="object")], "discriminator": {}}, {"k": 2}, "xgrammar"),
    ({"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "string"}]}, 4, "guidance"),
    (DRAFT_4, 4, "xgrammar"),
    ({"type": "array", "items": [{"type": "integer"}]}, [1], "guidance"),
    ({"type": "object", "properties": {"format": {"type": "string"}, "enum": {"const": 1}}}, {"format": "x"},
     "xgrammar"),
    ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}}}},
     {"next": {"next": {}}}, "xgrammar"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "library"), SERVED, ids=lambda value: json.dumps(value)[:60])
def test_what_clients_send_is_served(
    rig: GrammarRig, schema: dict[str, Any], value: Any, library: str
) -> None:
    used, name = rig.prepared(json=schema)
    assert used == library
    assert rig.accepts(name, json.dumps(value, ensure_ascii=False))
    inner = {"type": "object", "properties": {"x": schema}, "required": ["x"]} | {
        name: schema[name] for name in ("$defs", "$schema") if name in schema
    }
    _, name = rig.prepared(structural_tag=rig.forced_call(inner))
    assert rig.accepts(name, rig.call_of(json.dumps({"x": value}, ensure_ascii=False)))


def test_exclusive_bounds_of_draft_4(rig: GrammarRig) -> None:
    _, name = rig.prepared(json=DRAFT_4)
    assert not rig.accepts(name, "3")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": TWO, "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "string", "not": {"const": "a"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "minProperties": 3}, "minProperties 3"),
        ({"type": "string", "format": "iri"}, "Unknown format: iri"),
        ({"type": "strng"}, "type: 'strng' is not valid"),
        ({"type": "object", "properties": {"a": {"minLength": "3"}}}, "properties.a.minLength: '3' is not"),
        ({"type": "object", "properties": {"a": {"required": True}}}, "properties.a.required"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "string", "pattern": "^[[:alpha:]]$"}, "POSIX class"),
        ({"type": "integer", "minimum": 5, "exclusiveMinimum": True}, "exclusiveMinimum"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(rig: GrammarRig, schema: dict[str, Any], reason: str) -> None:
    inner = {"type": "object", "properties": {"x": schema}}
    for constraint in ({"json": schema}, {"structural_tag": rig.forced_call(inner)}):
        with pytest.raises(GrammarRefused) as caught:
            rig.prepared(**constraint)
        assert reason in str(caught.value)


@pytest.mark.parametrize("code", [*range(32), ord('"'), ord("\\")])
def test_xgrammars_strings_escape_what_json_escapes(rig: GrammarRig, code: int) -> None:
    """`schemas` gives xgrammar only strings without lengths and patterns."""
    library, name = rig.prepared(json={"type": "string"})
    assert library == "xgrammar"
    assert not rig.accepts(name, f'"{chr(code)}x"')


def test_draft_3_is_refused(rig: GrammarRig) -> None:
    with pytest.raises(GrammarRefused, match="draft 3"):
        rig.prepared(json={"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 2})


def test_a_named_library_is_used_as_vllm_uses_it(tmp_path: Path) -> None:
    """It refuses what vLLM's validation refuses, with a reason, and keeps what that library keeps."""
    rig = GrammarRig(tmp_path, backend="xgrammar")
    library, name = rig.prepared(json={"type": "object", "properties": TWO, "required": ["a"]})
    assert library == "xgrammar" and rig.accepts(name, '{"a": 1}')
    with pytest.raises(GrammarRefused, match="not supported by xgrammar"):
        rig.prepared(json={"type": "integer", "multipleOf": 2})
