"""Schemas and grammars that take long to compile, or that no compiler can finish."""

from __future__ import annotations

import json
from typing import Any


def wide_object(properties: int) -> dict[str, Any]:
    """An object with that many optional properties: some 75 bytes each."""
    each = {"type": "string", "minLength": 1, "maxLength": 40}
    return {"type": "object", "properties": {f"property_{number}": each for number in range(properties)}}


def nested_object(depth: int) -> dict[str, Any]:
    """Objects in objects."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "string"}}, "required": ["a"]}
    return schema


def nested_choices(depth: int, width: int) -> dict[str, Any]:
    """`anyOf` in `anyOf`: width ** depth ways through it, from few bytes of definitions."""
    definitions: dict[str, Any] = {"d0": {"type": "string", "pattern": "^[a-z]{1,60}$"}}
    for level in range(1, depth + 1):
        ways = [
            {
                "type": "object",
                "properties": {f"p{way}": {"$ref": f"#/$defs/d{level - 1}"}, "q": {"type": "number"}},
                "required": [f"p{way}"],
            }
            for way in range(width)
        ]
        definitions[f"d{level}"] = {"anyOf": ways}
    return {"$ref": f"#/$defs/d{depth}", "$defs": definitions}


def long_strings(count: int) -> dict[str, Any]:
    """Properties whose strings have a length in a wide range: each becomes thousands of states."""
    properties = {
        f"s{number}": {"type": "string", "minLength": 5_000, "maxLength": 20_000 + number}
        for number in range(count)
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def chained_rules(count: int) -> str:
    """A grammar in EBNF of that many rules that refer to each other."""
    rules = [f'r{n} ::= "a{n}" r{(n * 7 + 1) % count} | "b" r{(n + 1) % count} | "c"' for n in range(count)]
    return "\n".join(["root ::= r0", *rules])


def tags(count: int) -> str:
    """A structural tag of that many alternatives."""
    structures = [
        {"begin": f"<f{number}>", "schema": wide_object(4), "end": f"</f{number}>"} for number in range(count)
    ]
    return json.dumps({"type": "structural_tag", "structures": structures, "triggers": ["<f"]})
