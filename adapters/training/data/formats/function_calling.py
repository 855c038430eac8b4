"""Rows of the two data sets of function calls that people start from: xLAM and ToolACE."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.training.data.formats.declarations import api_name, converted_tools
from adapters.training.data.formats.row import Row, decoded
from adapters.training.data.formats.sharegpt import speaker_role, turns_of
from adapters.training.data.formats.train_flags import row_flags
from adapters.training.errors import DataError

_LIST_START = re.compile(r"\[\s*\{")
_CONSTANTS = {"true": True, "false": False, "null": None}
_REPLACED = (
    "the system text with the functions is left out: the base's template lists the tools in its own form"
)


def from_xlam(row: Mapping[str, Any], where: str) -> Row:
    """``query``, ``tools`` and ``answers``, the last two as lists or as JSON.

    Raises:
        DataError: a field is wrong, or there is no call.
    """
    answers = decoded(row["answers"], f"{where}: `answers`")
    if not isinstance(row["query"], str):
        raise DataError(f"{where}: `query` must be text.")
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{where}: `answers` must be a list with at least one call.")
    calls = [_named(call, f"{where}, answers[{i}]") for i, call in enumerate(answers)]
    messages = [
        {"role": "user", "content": row["query"]},
        {"role": "assistant", "content": None, "tool_calls": calls, **row_flags(row)},
    ]
    return Row("xlam", messages, converted_tools(row["tools"], where))


def is_toolace(row: Mapping[str, Any]) -> bool:
    """Whether the row has no tools, but a system text with the JSON of a list of functions."""
    system = row.get("system")
    return not row.get("tools") and isinstance(system, str) and _functions_in(system) is not None


def from_toolace(row: Mapping[str, Any], where: str) -> Row:
    """A ShareGPT row whose functions are in its system text, and whose calls are ``[name(key=value), …]``.

    Raises:
        DataError: a turn has no known speaker.
    """
    declared = _functions_in(row["system"]) or []
    names = {str(function["name"]) for function in declared}
    messages = []
    for place, turn in turns_of(row, where):
        role, text = speaker_role(turn, place), turn.get("value")
        calls = read_bracketed_calls(text, names) if role == "assistant" and isinstance(text, str) else None
        message: dict[str, Any] = {"role": role, "content": None if calls else text}
        if calls:
            message["tool_calls"] = [_named(call, place) for call in calls]
        messages.append(message | row_flags(turn))
    return Row("toolace", messages, converted_tools(declared, where), (_REPLACED,))


def read_bracketed_calls(text: str, names: set[str]) -> list[dict[str, Any]] | None:
    """The calls in ``[name(key=value, …), …]``; None if ``text`` is not exactly that, with functions of ``names``."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    calls, rest = [], text[1:-1].strip()
    while rest:
        name = next((n for n in sorted(names, key=len, reverse=True) if rest.startswith(f"{n}(")), None)
        end = _closing(rest, len(name)) if name else None
        if name is None or end is None:
            return None
        arguments = _arguments(rest[len(name) : end + 1])
        if arguments is None:
            return None
        calls.append({"name": name, "arguments": arguments})
        rest = rest[end + 1 :].lstrip().removeprefix(",").lstrip()
    return calls or None


def _closing(text: str, start: int) -> int | None:
    """Where the parenthesis that opens at ``start`` closes, outside of strings."""
    depth, quote, at = 0, "", start
    while at < len(text):
        character = text[at]
        if quote:
            at += character == "\\"
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
            if depth == 0:
                return at
        at += 1
    return None


def _arguments(parenthesised: str) -> dict[str, Any] | None:
    try:
        call = ast.parse(f"f{parenthesised}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        return {str(k.arg): ast.literal_eval(_JsonConstants().visit(k.value)) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


class _JsonConstants(ast.NodeTransformer):
    """``true``, ``false`` and ``null`` as Python's."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def _functions_in(text: str) -> list[dict[str, Any]] | None:
    """The first JSON list of functions in ``text``."""
    for found in _lists_in(text):
        if found and all(isinstance(f, dict) and isinstance(f.get("name"), str) for f in found):
            return found
    return None


def _lists_in(text: str) -> Iterator[list[Any]]:
    for start in _LIST_START.finditer(text):
        try:
            yield json.JSONDecoder().raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue


def _named(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise DataError(f"{where}: `name` must be text.")
    arguments = call.get("arguments") or {}
    return {"type": "function", "function": {"name": api_name(call["name"]), "arguments": arguments}}
