"""Brings a JSON schema into the form that the libraries enforce; what it accepts stays the same.

Both libraries lack keywords that others can express: `propertyNames` is `patternProperties`, `oneOf` of schemas that
exclude each other is `anyOf`, and a format is a pattern where no library has it. A schema that is not valid itself is
refused, because the libraries ignore what they do not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import validator_for

from server.engine.decoding.grammars.errors import GrammarRefused
from server.engine.decoding.grammars.json_schema.resolver import Resolver

#: Keywords with one schema for each name.
_MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
#: Keywords with values that are no schemas.
_VALUES: Final = frozenset({"const", "enum", "required", "type", "dependentRequired"})
#: Formats that JSON Schema defines; any other is an annotation, which restricts nothing.
_FORMATS: Final = frozenset(
    {"date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri",
     "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer",
     "regex"}
)  # fmt: skip
#: The 29th of February in leap years only, and no second 60, which most parsers refuse.
_LEAP_YEAR: Final = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[048]|[2468][048]|[13579][26])00)"
_DAY: Final = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE: Final = f"([0-9]{{4}}-{_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = f"{_HOUR}:[0-5][0-9](\\.[0-9]{{1,9}})?(Z|[+-]{_HOUR})"
_BYTE: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#: The part before the @ has at most 64 characters.
_ATOM: Final = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#: Formats as expressions, because a library lacks them or accepts more.
_AS_PATTERN: Final[Mapping[str, str]] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": f"^({_BYTE}\\.){{3}}{_BYTE}$",
    "email": f"^{_ATOM}(\\.?{_ATOM}){{0,31}}@{_LABEL}(\\.{_LABEL}){{1,3}}$",
    "json-pointer": "^(/([^/~]|~[01])*)*$",
    "relative-json-pointer": "^(0|[1-9][0-9]*)(#|(/([^/~]|~[01])*)*)$",
}
#: Of a name in DNS, and of an address in a mail's envelope (RFC 5321).
_MAX_CHARS: Final[Mapping[str, int]] = {"hostname": 253, "email": 254}
_POSIX_CLASS: Final = re.compile(r"\[:\^?[a-z]+:\]")
_ANNOTATIONS: Final = frozenset({"title", "description", "$comment", "examples", "default", "type"})
_OLDEST: Final = "http://json-schema.org/draft-03/schema"


def normal_form(schema: Any) -> Any:
    """A schema that accepts the same values, in the libraries' form. Raises: GrammarRefused: it is not valid."""
    try:
        _check(schema)
        return _Rewriter(schema).rewritten(schema)
    except RecursionError as error:
        raise GrammarRefused("the schema is nested too deeply") from error


def _check(schema: Any) -> None:
    """Raises: GrammarRefused: the schema is not valid in its own draft, or without one in the last one or draft 7."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise GrammarRefused(f"a schema is an object or a boolean, not {type(schema).__name__}")
    named = schema.get("$schema")
    if isinstance(named, str) and named.startswith(_OLDEST):
        raise GrammarRefused("JSON Schema draft 3 is not supported; use draft 4 or later")
    drafts = [validator_for(schema)] if isinstance(named, str) else [Draft202012Validator, Draft7Validator]
    faults = [fault for draft in drafts if (fault := _fault(draft, schema)) is not None]
    if len(faults) == len(drafts):
        where = ".".join(map(str, faults[0].absolute_path)) or "the schema"
        raise GrammarRefused(f"the JSON schema is not valid: {where}: {faults[0].message[:200]}")


def _fault(draft: Any, schema: Any) -> SchemaError | None:
    checker = draft(draft.META_SCHEMA)
    return best_match(checker.iter_errors(schema))


class _Rewriter:
    """One schema; `root` is what references begin at."""

    def __init__(self, root: Any) -> None:
        self._resolver = Resolver(root)

    def rewritten(self, schema: Any) -> Any:
        """This schema and all below it."""
        if isinstance(schema, list):
            return [self.rewritten(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        made = {name: self._below(name, value) for name, value in schema.items() if name != "x-guidance"}
        _rewrite_bounds(made)
        _rewrite_format(made)
        self._rewrite_names(made)
        _check_patterns(made)
        _check_count(made)
        branches = schema.get("oneOf")
        if isinstance(branches, list) and "anyOf" not in schema and self._resolver.are_apart(branches):
            made["anyOf"] = made.pop("oneOf")
        return made

    def _below(self, name: str, value: Any) -> Any:
        if name in _MAPS and isinstance(value, dict):
            return {key: self.rewritten(item) for key, item in value.items()}
        return value if name in _VALUES else self.rewritten(value)

    def _rewrite_names(self, schema: dict[str, Any]) -> None:
        """`propertyNames` alone, as properties or as one pattern of names."""
        if "propertyNames" not in schema or {"properties", "patternProperties"} & set(schema):
            return
        try:
            names = self._resolver.resolved(schema["propertyNames"])
        except (KeyError, IndexError, TypeError, ValueError):
            return
        if names is True:
            del schema["propertyNames"]
        if not isinstance(names, dict) or names.get("type", "string") != "string":
            return
        value = schema.get("additionalProperties", True)
        listed = names.get("enum", [names["const"]] if "const" in names else None)
        used = set(names) - _ANNOTATIONS
        if listed is not None and len(used) == 1:
            changed = {"properties": {name: value for name in listed if isinstance(name, str)}}
        elif (pattern := _as_pattern(names, used)) is not None:
            changed = {"patternProperties": {pattern: value}}
        else:
            return
        del schema["propertyNames"]
        schema.update(changed, additionalProperties=False)


def _as_pattern(names: dict[str, Any], used: set[str]) -> str | None:
    """The pattern that says the same as a schema of names; None without one."""
    if used == {"pattern"}:
        return str(names["pattern"])
    if used and used <= {"minLength", "maxLength"}:
        return f"^[\\s\\S]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
    return None


def _rewrite_bounds(schema: dict[str, Any]) -> None:
    """Draft 4 says with a boolean that `minimum` and `maximum` are exclusive."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)


def _rewrite_format(schema: dict[str, Any]) -> None:
    name = schema.get("format")
    if not isinstance(name, str):
        return
    if name not in _FORMATS:
        del schema["format"]
        return
    if name in _AS_PATTERN:
        del schema["format"]
        _add_pattern(schema, _AS_PATTERN[name])
    if name in _MAX_CHARS:
        schema["maxLength"] = min(schema.get("maxLength", _MAX_CHARS[name]), _MAX_CHARS[name])


def _add_pattern(schema: dict[str, Any], pattern: str) -> None:
    if "pattern" in schema:
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": pattern}]
    else:
        schema["pattern"] = pattern


def _check_patterns(schema: dict[str, Any]) -> None:
    """Raises: GrammarRefused: a pattern has what the libraries read in another way than JSON Schema."""
    patterns = [schema.get("pattern"), *schema.get("patternProperties", ())]
    for pattern in patterns:
        if isinstance(pattern, str) and _POSIX_CLASS.search(pattern):
            raise GrammarRefused(
                f"the pattern {pattern!r} has a POSIX class, which JSON Schema does not know"
            )


def _check_count(schema: dict[str, Any]) -> None:
    """Raises: GrammarRefused: names that no property lists would have to differ, which no library enforces."""
    least, required = schema.get("minProperties", 0), set(schema.get("required", ()))
    if least - len(required) <= 1:
        return
    rest = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
    if "patternProperties" not in schema:
        properties = schema.get("properties", {})
        if rest is None and len(properties) >= least and required <= set(properties):
            rest = schema["additionalProperties"] = False
        if rest is False:
            return
    raise GrammarRefused(
        f"minProperties {least} cannot be enforced where names are free, because names may repeat"
    )
