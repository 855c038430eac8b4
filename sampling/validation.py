"""Looks up decoding options by endpoint and name, and validates a request's body.

Only the fields of `sampling.options.OPTIONS` are checked. vLLM's handlers check the rest of the body: its OpenAI
models allow extra fields and ignore them with a line in the debug log
(`vllm.entrypoints.serve.engine.protocol.OpenAIBaseModel`), its Anthropic model ignores them without one. A known
option on an endpoint that does not support it is refused here, so that no option is ignored silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter, UnsupportedParameter
from sampling.options import OPTIONS, Option

# Fields that vLLM 0.32 ignores although clients rely on them: values without effect, and the alternative.
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


def _supported_names(endpoint: Endpoint) -> Mapping[str, Option]:
    return MappingProxyType({name: option for option in OPTIONS for name in option.names(endpoint)})


def _unsupported_names(endpoint: Endpoint) -> Mapping[str, tuple[tuple[Any, ...], str]]:
    """Options of other endpoints, by name: the values without effect, and the alternative here."""
    here = {option.name: option.names(endpoint)[0] for option in OPTIONS if endpoint in option.endpoints}
    unsupported = dict(_REMOVED)
    for option in OPTIONS:
        for name in {name for other in Endpoint for name in option.names(other)} - _SUPPORTED[
            endpoint
        ].keys():
            instead = f"Use {here[option.name]}." if option.name in here else "Leave it out."
            harmless, _ = unsupported.get(name, ((), ""))
            unsupported[name] = ((*harmless, option.default), _HINTS.get((endpoint, name), instead))
    return MappingProxyType(unsupported)


_SUPPORTED: Final = {endpoint: _supported_names(endpoint) for endpoint in Endpoint}
_UNSUPPORTED: Final = {endpoint: _unsupported_names(endpoint) for endpoint in Endpoint}

LAYERED: Final[frozenset[str]] = frozenset(option.name for option in OPTIONS if option.layered)
"""The options that server, adapter, tenant and preset may set."""

LENGTH_NAMES: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    endpoint: next(option for option in OPTIONS if option.name == "max_tokens").names(endpoint)
    for endpoint in Endpoint
}
"""The names of `max_tokens`; when a request has both, vLLM uses the first."""


def options_on(endpoint: Endpoint) -> Mapping[str, Option]:
    """The options that this endpoint supports, by each of their names there."""
    return _SUPPORTED[endpoint]


def effective_name(names: tuple[str, ...], body: Mapping[str, Any]) -> str | None:
    """The one of an option's names that vLLM uses in this body; None when all are absent or null."""
    for name in names:
        if body.get(name) is not None:
            return name
    return None


def validate(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Check each decoding option in the body: its JSON type, its range, and that the endpoint supports it.

    A null counts as absent. vLLM makes the checks that need the model (vocabulary, context length, schema
    compilation) and most checks between fields; it also answers with a 400.

    Raises:
        InvalidParameter: the value's type or range is wrong.
        UnsupportedParameter: the endpoint does not support the option.
    """
    supported = _SUPPORTED[endpoint]
    unsupported = _UNSUPPORTED[endpoint]
    for name, value in body.items():
        if value is None:
            continue
        if (option := supported.get(name)) is not None:
            if not option.kind.accepts(value) and not _only_echoes(name, value, body, endpoint):
                raise InvalidParameter(name, value, option.kind.expected)
        elif name in unsupported:
            harmless, instead = unsupported[name]
            if not any(_same(value, nothing) for nothing in harmless):
                raise UnsupportedParameter(name, value, endpoint.path, instead)


def _only_echoes(name: str, value: Any, body: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether `max_tokens` is 0 in a completion that only echoes its prompt; vLLM allows that."""
    is_zero = name == "max_tokens" and type(value) is int and value == 0
    return is_zero and endpoint is Endpoint.COMPLETIONS and body.get("echo") is True


def _same(value: Any, default: Any) -> bool:
    if default == ():
        return isinstance(value, list) and not value
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
