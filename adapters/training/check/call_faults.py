"""Faults in tool calls: declarations, names, arguments, ids and results of one chat."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from adapters.training.check.faults import Fault
from adapters.training.data.chat_template import Conversation, Message

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_SHOWN = 120
# Schemas must not make the check fetch anything: an empty registry knows no other documents.
_NO_DOCUMENTS: Registry[Any] = Registry()


def call_faults(chat: Conversation) -> Iterator[Fault]:
    """The faults in the declarations and calls of ``chat``."""
    yield from _declaration_faults(chat)
    declared = {_name(tool): json.dumps(_function(tool).get("parameters") or {}) for tool in chat.tools}
    called = False
    for at, message in enumerate(chat.messages):
        if calls := message.get("tool_calls"):
            called = True
            yield from _answer_faults(chat, at, calls)
        for number, call in enumerate(calls or ()):
            place = f"Line {chat.line}, messages[{at}].tool_calls[{number}]"
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if name in declared:
                text = json.dumps(arguments, sort_keys=True, ensure_ascii=False)
                yield from (
                    Fault(rule, f"{place}: {what}") for rule, what in argument_faults(declared[name], text)
                )
            elif declared:
                shown = ", ".join(sorted(declared)[:5])
                yield Fault("undeclared_function", f"{place}: {name[:60]!r}; declared: {shown}")
    if called and not declared:
        yield Fault("calls_without_tools", f"Line {chat.line}")
    yield from _id_faults(chat)


@lru_cache(maxsize=65536)
def argument_faults(schema: str, arguments: str) -> tuple[tuple[str, str], ...]:
    """The rules that ``arguments`` break, with what breaks them; both are JSON, so that equal calls are cached."""
    parameters, given = json.loads(schema), json.loads(arguments)
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    known = properties if isinstance(properties, dict) else {}
    closed = isinstance(properties, dict) and not parameters.get("additionalProperties")
    unknown = [key for key in given if closed and key not in known] if "$ref" not in schema else []
    found = [("unknown_argument", f"`{key[:60]}`; the function has {_listed(known)}") for key in unknown]
    padded = [key for key, value in given.items() if value is None and key not in unknown]
    padded = [key for key in padded if not _allows_null(known.get(key))]
    found += [("null_padding", f"`{key[:60]}` is null") for key in padded]
    rest = {key: value for key, value in given.items() if key not in unknown and key not in padded}
    validator = _validator(schema)
    error = _first_error(validator, rest) if validator else None
    if error is not None and not (padded and error.validator == "required"):
        path = "".join(f".{part}" for part in error.absolute_path).lstrip(".")
        found.append(("invalid_arguments", f"{f'`{path}`: ' if path else ''}{_cut(error.message)}"))
    return tuple(found)


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Draft202012Validator | None:
    """A validator of a function's parameters; None if they are no valid schema."""
    if _schema_fault(schema):
        return None
    return Draft202012Validator(json.loads(schema), registry=_NO_DOCUMENTS)


def _first_error(validator: Draft202012Validator, value: Any) -> ValidationError | None:
    try:
        return best_match(validator.iter_errors(value))
    except (Unresolvable, RecursionError, re.error) as error:
        return ValidationError(f"the schema cannot be applied: {type(error).__name__}")


@lru_cache(maxsize=4096)
def _schema_fault(schema: str) -> str | None:
    """What is wrong with a function's parameters as a JSON schema."""
    parameters = json.loads(schema)
    if not isinstance(parameters, dict):
        return "`parameters` is not an object"
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        path = ".".join(str(part) for part in error.absolute_path)
        return f"`parameters` is no JSON schema: {f'`{path}`: ' if path else ''}{_cut(error.message)}"
    if parameters.get("type", "object") != "object":
        return f"the type of `parameters` is {parameters['type']!r}, not object"
    required, properties = parameters.get("required") or [], parameters.get("properties")
    missing = [key for key in required if isinstance(properties, dict) and key not in properties]
    return f"`required` names `{missing[0]}`, which is not among the properties" if missing else None


def _declaration_faults(chat: Conversation) -> Iterator[Fault]:
    counted = Counter(_name(tool) for tool in chat.tools)
    for name, count in counted.items():
        if count > 1:
            yield Fault("duplicate_tool", f"Line {chat.line}: {name[:60]!r}")
    for at, tool in enumerate(chat.tools):
        name = _name(tool)
        fault = (
            None
            if _NAME.fullmatch(name)
            else f"the name {name[:60]!r} has other characters than a-zA-Z0-9_.-"
        )
        fault = fault or _schema_fault(json.dumps(_function(tool).get("parameters") or {}))
        if fault:
            yield Fault("invalid_tool", f"Line {chat.line}, tools[{at}] ({name[:60]}): {fault}")


def _answer_faults(chat: Conversation, at: int, calls: Sequence[Any]) -> Iterator[Fault]:
    """Calls of a turn in the middle of a chat that do not have one result each."""
    results = 0
    for message in chat.messages[at + 1 :]:
        if message["role"] != "tool":
            break
        results += 1
    last = at + 1 + results == len(chat.messages)
    if results != len(calls) and not (last and results == 0):
        yield Fault(
            "unanswered_call", f"Line {chat.line}, messages[{at}]: {len(calls)} calls, {results} results"
        )


def _id_faults(chat: Conversation) -> Iterator[Fault]:
    seen: set[str] = set()
    ids: set[str] = set()
    for at, message in enumerate(chat.messages):
        if message["role"] == "assistant":
            own = [str(call["id"]) for call in message.get("tool_calls") or () if call.get("id")]
            ids = set(own)
            for repeated in {i for i in own if own.count(i) > 1 or i in seen}:
                yield Fault("duplicate_call_id", f"Line {chat.line}, messages[{at}]: {repeated[:60]!r}")
            seen |= ids
        elif message["role"] == "tool" and ids:
            answered = str(message.get("tool_call_id") or "")
            if answered and answered not in ids:
                yield Fault("unknown_call_id", f"Line {chat.line}, messages[{at}]: {answered[:60]!r}")


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function: Message = tool["function"]
    return function


def _name(tool: Mapping[str, Any]) -> str:
    return str(_function(tool)["name"])


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is None
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "null" in kinds or None in (schema.get("enum") or ()) or schema.get("nullable"):
        return True
    choices = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return any(_allows_null(choice) for choice in choices) or not schema.keys() & {
        "type",
        "enum",
        "anyOf",
        "oneOf",
        "$ref",
    }


def _listed(properties: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in list(properties)[:8]) or "none"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
