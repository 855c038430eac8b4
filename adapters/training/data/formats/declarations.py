"""Declared functions in the forms that data sets have, as OpenAI ``tools``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapters.training.data.formats.row import decoded
from adapters.training.errors import DataError

# Types as Python, xLAM and ToolACE write them; JSON schema knows only the right-hand ones.
_TYPES = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number",
    "double": "number", "bool": "boolean", "list": "array", "tuple": "array", "set": "array",
    "dict": "object", "hashmap": "object", "none": "null",
}  # fmt: skip
_GENERIC = re.compile(r"(\w+)\[(.*)\]")
_NAME_FAULT = re.compile(r"[^a-zA-Z0-9_.-]+")


def read_tools(raw: Any, where: str) -> list[dict[str, Any]]:
    """Tools in OpenAI's format, from a list or its JSON; a bare function is wrapped.

    Raises:
        DataError: it is not a list of objects.
    """
    tools = decoded(raw, f"{where}: `tools`") if isinstance(raw, str) and raw.strip() else raw
    tools = tools or []
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise DataError(f"{where}: `tools` must be a list of objects.")
    return [_wrapped(t, f"{where}, tools[{i}]") for i, t in enumerate(tools)]


def _wrapped(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    tool = dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
        raise DataError(f"{where}: `function` must be an object whose `name` is text.")
    return tool


def converted_tools(raw: Any, where: str) -> list[dict[str, Any]]:
    """Tools as in ``read_tools``, with parameters as JSON schema and names that OpenAI's API takes."""
    found = []
    for tool in read_tools(raw, where):
        function = tool["function"]
        parameters = _as_schema(function.get("parameters") or {})
        named = {"name": api_name(function["name"]), "description": function.get("description") or ""}
        found.append({"type": "function", "function": named | {"parameters": parameters}})
    return found


def api_name(name: str) -> str:
    """``name`` with only the characters that OpenAI's API takes in a function's name."""
    return _NAME_FAULT.sub("_", name)


def _as_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema, from one in Python's type names or from xLAM's flat description of each parameter."""
    if "properties" in parameters or not all(isinstance(p, dict) for p in parameters.values()):
        return dict(_renamed(parameters))
    required = [
        name
        for name, p in parameters.items()
        if "optional" not in str(p.get("type", "")).lower() and "default" not in p
    ]
    properties = {
        name: _renamed({k: v for k, v in p.items() if k != "required"}) for name, p in parameters.items()
    }
    return {"type": "object", "properties": properties, "required": required}


def _renamed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_renamed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(value) for key, value in schema.items() if key != "type"}
    kind = schema.get("type")
    if isinstance(kind, str):
        return renamed | _type(kind)
    return renamed if "type" not in schema else renamed | {"type": _renamed(kind)}


def _type(kind: str) -> dict[str, Any]:
    """The schema of a type such as ``List[int], optional``."""
    kind = kind.split(",", 1)[0].strip() if "[" not in kind else re.sub(r",\s*optional$", "", kind.strip())
    generic = _GENERIC.fullmatch(kind)
    if generic is None:
        name = _TYPES.get(kind.lower(), kind.lower())
        return {} if name in ("any", "") else {"type": name}
    outer, inner = generic.group(1).lower(), generic.group(2)
    if outer == "optional":
        return _type(inner)
    if outer == "union":
        return {"type": sorted({str(t["type"]) for part in inner.split(",") if (t := _type(part.strip()))})}
    found = _type(outer)
    return found | {"items": _type(inner)} if found.get("type") == "array" and "," not in inner else found
