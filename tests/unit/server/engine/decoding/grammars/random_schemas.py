"""Random schemas of all keywords, often of several beside each other, and random values near to them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "b", "ab"]
TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"]
PATTERNS = [
    "^a", "b$", "^[a-c]+$", "^a|b$", "^(a|ab)$", "^\\d{1,2}$", "^[^a]$", '^"?a$', "^a\\\\?$", "^.{1,2}$", "^\\S+$",
    "^a\\.b$", "^a(\\.[0-9])?$", "^(?!a)b$", "^\\ba$", "^a\\t?$", "", "^a$|^b$", "^[[:alpha:]]$",
]  # fmt: skip
FORMATS = [
    "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "uri-reference",
    "uri-template", "json-pointer", "relative-json-pointer", "regex", "iri", "idn-email", "password", "int64",
]  # fmt: skip
SCALARS = [None, True, False, 0, 1, 2, 3, -1, 1.5, 1.0, 10, "", "a", "b", "ab", "abc", "2024-02-29", "é"]

counts = st.integers(0, 3)
numbers = st.sampled_from([0, 1, 2, 3, -1, 1.5, 0.5, 10])
names = st.lists(st.sampled_from([*NAMES, "c"]), max_size=2, unique=True)
values = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "c"]), inner, max_size=3)
    ),
    max_leaves=4,
)


def _keywords(schemas: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """Every keyword with its values. $ref names one of the two schemas that `documents` defines."""
    lists = st.lists(schemas, min_size=1, max_size=3)
    maps = st.dictionaries(st.sampled_from(NAMES), schemas, max_size=2)
    return {
        "const": values, "enum": st.lists(values, min_size=1, max_size=4),
        "minLength": counts, "maxLength": counts,
        "pattern": st.sampled_from(PATTERNS), "format": st.sampled_from(FORMATS),
        "minimum": numbers, "maximum": numbers, "exclusiveMinimum": numbers, "exclusiveMaximum": numbers,
        "multipleOf": st.sampled_from([1, 2, 0.5, 3]),
        "properties": maps, "required": names, "additionalProperties": schemas, "unevaluatedProperties": schemas,
        "propertyNames": schemas, "minProperties": counts, "maxProperties": counts,
        "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), schemas, max_size=2),
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=1),
        "dependentSchemas": maps, "dependencies": maps,
        "items": schemas, "prefixItems": lists, "minItems": counts, "maxItems": counts, "unevaluatedItems": schemas,
        "uniqueItems": st.booleans(), "contains": schemas, "minContains": counts, "maxContains": counts,
        "allOf": lists, "anyOf": lists, "oneOf": lists, "not": schemas,
        "if": schemas, "then": schemas, "else": schemas,
        "$ref": st.sampled_from(["#/$defs/one", "#/$defs/two"]),
        "title": st.just("a"), "default": values, "nullable": st.booleans(),
    }  # fmt: skip


#: Keywords by what they restrict: a schema takes most of its keywords from one group.
_GROUPS = {
    "string": ["minLength", "maxLength", "pattern", "format", "enum"],
    "number": ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
    "object": ["properties", "required", "additionalProperties", "patternProperties", "propertyNames",
               "minProperties", "maxProperties", "dependentRequired", "unevaluatedProperties"],
    "array": ["items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"],
    "any": ["const", "enum", "allOf", "anyOf", "oneOf", "not", "if", "$ref"],
}  # fmt: skip
_OF_TYPE = {"integer": "number", "boolean": "any", "null": "any"}


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> Any:
    """A schema of at most `depth` levels below it."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.booleans())
    below = (
        schemas(depth - 1)
        if depth
        else st.sampled_from(
            [{"type": kind} for kind in TYPES]
            + [{"const": "a"}, {"enum": [1, "b"]}, {"type": "string", "maxLength": 2}, {}]
        )
    )
    keywords = _keywords(below)
    schema: dict[str, Any] = {}
    kind = draw(st.sampled_from([*TYPES, "any", "any"]))
    group = _OF_TYPE.get(kind, kind)
    if kind in TYPES and draw(st.integers(0, 9)) > 0:
        schema["type"] = [kind, draw(st.sampled_from(TYPES))] if draw(st.integers(0, 9)) == 0 else kind
        if isinstance(schema["type"], list) and len(set(schema["type"])) == 1:
            schema["type"] = kind
    for _ in range(draw(st.integers(0, 3))):
        foreign = draw(st.integers(0, 7)) == 0
        name = draw(st.sampled_from(sorted(keywords) if foreign else _GROUPS[group]))
        schema[name] = draw(keywords[name])
    if "if" in schema:
        schema["then"] = draw(below)
    return schema


@st.composite
def documents(draw: st.DrawFn, of_object: bool = False) -> dict[str, Any]:
    """A whole schema, with the definitions that its references name; `of_object`: as a tool has it."""
    schema = draw(schemas())
    if of_object and not (isinstance(schema, dict) and schema.get("type") == "object"):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        if draw(st.booleans()):
            schema["additionalProperties"] = False
    schema = schema if isinstance(schema, dict) else {"anyOf": [schema]}
    if "#/$defs/" in json.dumps(schema):
        schema["$defs"] = {"one": draw(schemas(1)), "two": draw(schemas(0))}
    return schema
