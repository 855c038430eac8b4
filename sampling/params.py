"""Looking up decoding options by endpoint and name, and checking a request's body against them.

Only the fields of `sampling.options.OPTIONS` are looked at. Anything else in a body is left to vLLM's
handlers: its OpenAI models allow extra fields and ignore them with a line in the debug log
(`vllm.entrypoints.serve.engine.protocol.OpenAIBaseModel`), its Anthropic model without one. A field that we
do know, on an endpoint that would ignore it, is refused here: no option is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter, UnsupportedParameter
from sampling.options import OPTIONS, Option

__all__ = ["LAYERED", "LENGTH_NAMES", "OPTIONS", "Option", "obeyed_name", "options_on", "validate"]

# Fields that vLLM 0.32 ignores though clients mean something by them: harmless values, and what to do.
_STRUCTURED = ((), "Use structured_outputs or response_format.")
_REMOVED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "best_of": ((1,), "Ask for n answers and choose among them."),
    "guided_json": _STRUCTURED,
    "guided_regex": _STRUCTURED,
    "guided_choice": _STRUCTURED,
    "guided_grammar": _STRUCTURED,
}
_HINTS: Final[Mapping[tuple[Endpoint, str], str]] = {
    (Endpoint.CHAT, "text"): "Use response_format.",
    (Endpoint.COMPLETIONS, "text"): "Use response_format.",
    (Endpoint.COMPLETIONS, "top_logprobs"): "Use logprobs with a number.",
    (Endpoint.RESPONSES, "response_format"): "Use text.format.",
    (Endpoint.RESPONSES, "reasoning_effort"): "Use reasoning.effort.",
}


def _taken_names(endpoint: Endpoint) -> Mapping[str, Option]:
    return MappingProxyType({name: option for option in OPTIONS for name in option.names(endpoint)})


def _untaken_names(endpoint: Endpoint) -> Mapping[str, tuple[tuple[Any, ...], str]]:
    """Names that mean something on another endpoint: values that ask for nothing, and what to do instead."""
    here = {option.name: option.names(endpoint)[0] for option in OPTIONS if endpoint in option.endpoints}
    untaken = dict(_REMOVED)
    for option in OPTIONS:
        for name in {name for other in Endpoint for name in option.names(other)} - _TAKEN[endpoint].keys():
            instead = f"Use {here[option.name]}." if option.name in here else "Leave it out."
            harmless, _ = untaken.get(name, ((), ""))
            untaken[name] = ((*harmless, option.default), _HINTS.get((endpoint, name), instead))
    return MappingProxyType(untaken)


_TAKEN: Final = {endpoint: _taken_names(endpoint) for endpoint in Endpoint}
_UNTAKEN: Final = {endpoint: _untaken_names(endpoint) for endpoint in Endpoint}

LAYERED: Final[frozenset[str]] = frozenset(option.name for option in OPTIONS if option.layered)
"""The options that server, adapter, tenant and preset may set."""

LENGTH_NAMES: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    endpoint: next(option for option in OPTIONS if option.name == "max_tokens").names(endpoint)
    for endpoint in Endpoint
}
"""What `max_tokens` is called, first the name that vLLM obeys where a request has both."""


def options_on(endpoint: Endpoint) -> Mapping[str, Option]:
    """The options that this endpoint takes, by every name it takes them under."""
    return _TAKEN[endpoint]


def obeyed_name(names: tuple[str, ...], body: Mapping[str, Any]) -> str | None:
    """Which of an option's names vLLM obeys in this body; None when all are absent or null."""
    for name in names:
        if body.get(name) is not None:
            return name
    return None


def validate(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Check each decoding option in the body: its JSON type, its range, and that the endpoint takes it.

    A null counts as absent. Checks that need the model (vocabulary, context length, schema compilation) and
    most of those between fields are vLLM's, which answers with a 400 too.

    Raises:
        InvalidParameter: the value's type or range is wrong.
        UnsupportedParameter: the endpoint would ignore the option.
    """
    taken = _TAKEN[endpoint]
    untaken = _UNTAKEN[endpoint]
    for name, value in body.items():
        if value is None:
            continue
        if (option := taken.get(name)) is not None:
            if not option.kind.accepts(value) and not _only_echoes(name, value, body, endpoint):
                raise InvalidParameter(name, value, option.kind.expected)
        elif name in untaken:
            harmless, instead = untaken[name]
            if not any(_same(value, nothing) for nothing in harmless):
                raise UnsupportedParameter(name, value, endpoint.path, instead)


def _only_echoes(name: str, value: Any, body: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether `max_tokens` is 0 in a completion that only echoes its prompt, which vLLM allows."""
    is_zero = name == "max_tokens" and type(value) is int and value == 0
    return is_zero and endpoint is Endpoint.COMPLETIONS and body.get("echo") is True


def _same(value: Any, default: Any) -> bool:
    if default == ():
        return isinstance(value, list) and not value
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
