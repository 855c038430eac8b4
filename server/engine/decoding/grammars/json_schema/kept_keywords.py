"""Which JSON schemas xgrammar enforces fully.

xgrammar ignores a keyword that it does not support, or supports only beside others, mostly without a word: of
`{"minLength": 3}` (without a type), `{"type": "string", "not": …}` or `{"$ref": …, "minimum": 5}` it lets every value
pass. `keeps_schema` is therefore a list of what is known to be enforced, found by
`tests/unit/server/engine/decoding/grammars/test_keywords.py`; every other schema goes to llguidance, which refuses
what it does not support. Keywords are those of the draft 2020-12 and, where they have another name, of earlier ones.
"""

from __future__ import annotations

from typing import Any, Final

from server.engine.decoding.grammars.json_schema.resolver import TYPES, Resolver, Schema, types_in, types_of

#: Keywords that restrict values of one type.
_OF_TYPE: Final[dict[str, frozenset[str]]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"}),
    "object": frozenset(
        {"properties", "required", "additionalProperties", "unevaluatedProperties",
         "minProperties", "maxProperties"}
    ),
}  # fmt: skip
#: Formats that xgrammar enforces exactly.
_FORMATS: Final = frozenset({"duration", "uri", "uri-reference", "uri-template", "uuid"})
#: Keywords with schemas that apply to the same value; xgrammar follows one of them and ignores what stands beside it.
_FOLLOWED: Final = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum")
#: Keywords that xgrammar ignores or misreads wherever they stand.
_NEVER: Final = frozenset(
    {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains",
     "maxContains", "multipleOf", "patternProperties", "propertyNames", "additionalItems", "$dynamicRef",
     "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "divisibleBy", "disallow", "extends"}
)  # fmt: skip
_ASSERTIONS: Final = frozenset().union(*_OF_TYPE.values(), _FOLLOWED, _NEVER)


def keeps_schema(schema: Any) -> bool:
    """Whether every value that xgrammar lets pass is valid for this schema, as far as it is a schema at all."""
    try:
        return _Kept(schema).all_of(schema)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # not a schema: llguidance says why
        return False


class _Kept(Resolver):
    """One check; `root` is what references begin at."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self._seen: set[int] = set()

    def implied(self, schema: Any) -> frozenset[str]:
        """The types of the values that xgrammar lets pass."""
        types = super().implied(schema)
        schema = self.resolved(schema)
        if types != TYPES or not isinstance(schema, dict) or any(name in schema for name in _FOLLOWED):
            return types
        if "properties" in schema or "additionalProperties" in schema:
            return frozenset({"object"})
        return frozenset({"array"}) if "items" in schema or "prefixItems" in schema else TYPES

    def all_of(self, schema: Any) -> bool:
        """Whether this schema and all below it are enforced."""
        if schema is True:
            return True
        if not isinstance(schema, dict) or id(schema) in self._seen:
            return schema is not False and isinstance(schema, dict)
        self._seen.add(id(schema))
        if _ASSERTIONS.isdisjoint(schema) and "uniqueItems" not in schema:
            return types_in(schema) <= TYPES
        return (
            _NEVER.isdisjoint(schema)
            and schema.get("uniqueItems", False) is False
            and (schema is self._root or "$id" not in schema)
            and self._one_kind(schema)
        )

    def _one_kind(self, schema: Schema) -> bool:
        followed = [name for name in _FOLLOWED if name in schema]
        others = {name for name in schema if name in _ASSERTIONS and name not in followed}
        if not followed:
            return self._oftypes_in(schema)
        if len(followed) > 1 or others:
            return False
        name = followed[0]
        kept = {"const": self._values, "enum": self._values, "$ref": self._reference}.get(
            name, self._branches
        )
        return kept(name, schema)

    def _oftypes_in(self, schema: Schema) -> bool:
        """Keywords of types: xgrammar reads them only where the type is given, or object or array is implied."""
        types = types_in(schema) or self.implied(schema)
        if types == TYPES or not types <= TYPES:
            return False
        return (
            ("string" not in types or _string(schema))
            and ("object" not in types or self._object(schema))
            and ("array" not in types or self._array(schema))
        )

    def _object(self, schema: Schema) -> bool:
        properties = schema.get("properties", {})
        if "maxProperties" in schema and not {"properties", "additionalProperties"} & set(schema):
            return False  # xgrammar would let only {} pass
        return (
            set(schema.get("required", ())) <= set(properties)
            and all(map(self.all_of, properties.values()))
            and self._rest(schema, "additionalProperties")
            and self._rest(schema, "unevaluatedProperties")
        )

    def _array(self, schema: Schema) -> bool:
        return (
            all(map(self.all_of, schema.get("prefixItems", ())))
            and self._rest(schema, "items")
            and self._rest(schema, "unevaluatedItems")
        )

    def _rest(self, schema: Schema, name: str) -> bool:
        return name not in schema or schema[name] is False or self.all_of(schema[name])

    def _values(self, name: str, schema: Schema) -> bool:
        values = [schema["const"]] if name == "const" else schema["enum"]
        types = types_in(schema)
        return not types or all(types & types_of(value) for value in values)

    def _reference(self, name: str, schema: Schema) -> bool:
        return not types_in(schema) and self.all_of(self.target(schema[name]))

    def _branches(self, name: str, schema: Schema) -> bool:
        branches, types = schema[name], types_in(schema)
        if name == "allOf" and len(branches) > 1:
            return False
        if name == "oneOf" and not self.are_apart(branches):
            return False
        return all(
            self.all_of(branch) and (not types or self.implied(branch) <= types) for branch in branches
        )


def _string(schema: Schema) -> bool:
    """Whether the keywords of strings are enforced.

    NOTE: with lengths xgrammar lets raw tabs pass. Its patterns with an optional group, `^a(b[0-9])?$`, accept "a5",
    and those with quotes or backslashes give strings that are not JSON.
    """
    if not {"minLength", "maxLength", "pattern"}.isdisjoint(schema):
        return False
    return "format" not in schema or schema["format"] in _FORMATS
