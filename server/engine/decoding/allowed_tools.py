"""Serves the `tool_choice` of type `allowed_tools`: the model sees the allowed tools only, and `mode` is the choice.

vLLM's chat model refuses this form, and its Responses handler accepts it without effect.
Leans on (vLLM 0.32): the wire models ChatCompletionRequest and ResponsesRequest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.errors import InvalidRequest

_TYPE: Final = "allowed_tools"
_MODES: Final = ("auto", "required")


def narrow(wire: type[BaseModel], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with the allowed tools only and `mode` as its `tool_choice`; a body of another choice as it is.

    Raises:
        InvalidRequest: the choice has another form, or names a tool that `tools` lacks.
    """
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != _TYPE:
        return dict(body)
    if wire is ChatCompletionRequest:
        choice = choice.get(_TYPE)
    elif wire is not ResponsesRequest:
        return dict(body)
    allowed = _names(choice)
    tools = {_name(tool): tool for tool in body.get("tools") or () if isinstance(tool, dict)}
    for name in allowed:
        if name not in tools:
            raise InvalidRequest(
                f"tool_choice allows the tool {name!r}, which is not in tools. Add it to tools, or remove it from "
                "tool_choice.",
                param="tool_choice",
            )
    assert isinstance(choice, dict)
    return {
        **body,
        "tools": [tools[name] for name in tools if name in allowed],
        "tool_choice": choice["mode"],
    }


def _names(choice: Any) -> set[str]:
    """The names of the allowed tools. Raises: InvalidRequest."""
    if not isinstance(choice, dict) or choice.get("mode") not in _MODES:
        mode = choice.get("mode") if isinstance(choice, dict) else None
        raise InvalidRequest(
            f'The mode of allowed_tools must be "auto" or "required", got {str(mode)[:64]!r}.',
            param="tool_choice",
        )
    tools = choice.get("tools")
    names = {_name(tool) for tool in tools} if isinstance(tools, list) else set()
    if not names or None in names:
        raise InvalidRequest(
            "The tools of allowed_tools must be a list of at least one function with its name, as in tools.",
            param="tool_choice",
        )
    return {name for name in names if name is not None}


def _name(tool: Any) -> str | None:
    """The name of a tool in either API's form."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None
