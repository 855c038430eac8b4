"""Which tool calls must match the `parameters` of their tool.

vLLM's `tool_strict_level` pins the arguments of tools with `"strict": true` (auto), or those of all tools, also where
the model need not call one (parameter). Most clients that force a call send no `strict` and read the arguments
without a check, so `forced`, our default, pins the arguments wherever a call is forced. `"strict": false` is the
default of OpenAI's API, which some clients write out, so it changes nothing. The arguments are an object in any case,
also where `parameters` have no `type`.

Leans on (vLLM 0.32): vllm.tool_parsers.structural_tag_registry.resolve_tool_strictness (replaced there and in
vllm.parser.abstract_parser), get_function_parameters (replaced), _with_tool_strict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from vllm.exceptions import VLLMValidationError
from vllm.parser import abstract_parser
from vllm.tool_parsers import structural_tag_registry as registry

from server.config.engine_settings import ToolStrictLevel

#: What vLLM is told where our own level holds.
_VLLM_LEVEL: Final = "auto"
_ANY_OBJECT: Final = {"type": "object"}

_resolve: Any = registry.resolve_tool_strictness
_parameters: Any = registry.get_function_parameters


def vllm_level(level: ToolStrictLevel) -> str:
    """vLLM's `tool_strict_level` for one of ours."""
    return _VLLM_LEVEL if level == "forced" else level


def follow(level: ToolStrictLevel) -> None:
    """Make the tool parsers of this process follow a level. Idempotent."""
    is_ours = level == "forced"
    resolve = _resolved if is_ours else _resolve
    registry.resolve_tool_strictness = abstract_parser.resolve_tool_strictness = resolve
    registry.get_function_parameters = _object_parameters if is_ours else _parameters


def _resolved(tools: Sequence[Any], tool_choice: Any, strict_level: Any) -> list[Any] | None:
    """vLLM's decision, and the schemas of forced calls."""
    decided = _resolve(tools, tool_choice, strict_level)
    if decided is None or tool_choice == "auto":
        return None if decided is None else list(decided)
    return [registry._with_tool_strict(tool, True) for tool in decided]


def _object_parameters(function: Any) -> Any:
    """The schema of a tool's arguments: an object, where vLLM takes any JSON. Raises: VLLMValidationError."""
    parameters = _parameters(function)
    if not isinstance(parameters, dict) or not parameters:
        return _ANY_OBJECT
    types = parameters.get("type", "object")
    if types != "object" and (not isinstance(types, list) or "object" not in types):
        raise VLLMValidationError(
            f"The parameters of the tool {function.name!r} must be the schema of an object, "
            f"but their type is {types!r}.",
            parameter="tools",
        )
    return parameters | {"type": "object"}
