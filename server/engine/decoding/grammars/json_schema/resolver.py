"""What the references of a JSON schema name, and which values two schemas cannot share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

TYPES: Final = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
_MAX_REFERENCES: Final = 16


class Resolver:
    """What references name, and what follows from it; `root` is what they begin at."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def are_apart(self, branches: list[Any]) -> bool:
        """Whether no value can match two of these schemas, as far as it is easy to tell."""
        try:
            return all(self.apart(one, other) for at, one in enumerate(branches) for other in branches[:at])
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return False

    def target(self, reference: str) -> Any:
        """What a reference into this document names. Raises: KeyError, ValueError: nothing, or another document."""
        if reference == "#":
            return self._root
        if not reference.startswith("#/") or "~" in reference or "%" in reference:
            raise ValueError(reference)
        found = self._root
        for part in reference[2:].split("/"):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return found

    def resolved(self, schema: Any) -> Any:
        """The schema that a reference names at last. Raises: as `target`."""
        for _ in range(_MAX_REFERENCES):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            schema = self.target(schema["$ref"])
        return schema

    def implied(self, schema: Any) -> frozenset[str]:
        """The types of the values that a schema accepts, or more types."""
        schema = self.resolved(schema)
        if not isinstance(schema, dict):
            return TYPES
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return frozenset().union(*map(types_of, values))
        if types := types_in(schema):
            return types | {"integer"} if "number" in types else types
        for name in ("anyOf", "oneOf", "allOf"):
            if name in schema:
                return frozenset().union(*map(self.implied, schema[name]))
        return TYPES

    def apart(self, one: Any, other: Any) -> bool:
        """Whether no value can match both: by their types, their values, or a property that both require."""
        one, other = self.resolved(one), self.resolved(other)
        if self.implied(one).isdisjoint(self.implied(other)):
            return True
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        values, others = _listed(one), _listed(other)
        if values is not None and others is not None:
            return values.isdisjoint(others)
        if {"object"} not in (self.implied(one), self.implied(other)):
            return False
        common = set(one.get("required", ())) & set(other.get("required", ()))
        return any(
            self._apart_values(one["properties"][name], other["properties"][name])
            for name in common
            if name in one.get("properties", {}) and name in other.get("properties", {})
        )

    def _apart_values(self, one: Any, other: Any) -> bool:
        values, others = _listed(self.resolved(one)), _listed(self.resolved(other))
        return values is not None and others is not None and values.isdisjoint(others)


def types_in(schema: Schema) -> frozenset[str]:
    """The types that `type` names; empty without it."""
    named = schema.get("type", [])
    types = frozenset([named] if isinstance(named, str) else named)
    if "type" in schema and not types:
        raise ValueError("type is empty")
    return types


def types_of(value: Any) -> frozenset[str]:
    """The names of a value's type."""
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    kinds: Mapping[type, str] = {
        str: "string",
        float: "number",
        dict: "object",
        list: "array",
        type(None): "null",
    }
    return frozenset({kinds[type(value)]})


def _listed(schema: Any) -> set[str] | None:
    """The values that `const` or `enum` lists, as JSON; None where neither does. 1 and 1.0 are one value."""
    if not isinstance(schema, dict) or not ("const" in schema or "enum" in schema):
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    return {json.dumps(float(v) if type(v) is int else v, sort_keys=True) for v in values}
