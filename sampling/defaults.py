"""A layer: default values of options that apply when no higher layer sets them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sampling.endpoints import Endpoint
from sampling.errors import InvalidDefault, quote
from sampling.options import OPTIONS, Option
from sampling.validation import LAYERED

Placed = tuple[tuple[Option, str, Any], ...]

_FROM_GENERATION_CONFIG = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_LENGTH_IN_GENERATION_CONFIG = "max_new_tokens"


@dataclass(frozen=True, slots=True)
class Layer:
    """Defaults of one origin: "server", "adapter", "tenant", "preset:chat".

    `defaults` uses the names of the table (always `max_tokens`, never `max_output_tokens`). A value replaces the
    lower layers' value completely: lists and objects are not merged. A null counts as not set.
    All checks and the names per endpoint are computed once, here, so applying a layer to a request is cheap.

    Raises:
        InvalidDefault: an unknown option, one that only a request may set, a value out of range, or two
            options that both set the answer's format.
    """

    origin: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    placed: Mapping[Endpoint, Placed] = field(init=False, repr=False, compare=False)
    """Per endpoint: the option, its field name and its value."""
    unplaced: Mapping[Endpoint, Mapping[str, Any]] = field(init=False, repr=False, compare=False)
    """Per endpoint: the defaults, by table name, for which its requests have no field."""

    def __post_init__(self) -> None:
        kept = copy.deepcopy({name: value for name, value in self.defaults.items() if value is not None})
        for name, value in kept.items():
            _check(self.origin, name, value)
        placed = {endpoint: _place(kept, endpoint) for endpoint in Endpoint}
        unplaced = {}
        for endpoint, entries in placed.items():
            _check_forms(self.origin, entries)
            names = {option.name for option, _, _ in entries}
            rest = {name: value for name, value in kept.items() if name not in names}
            unplaced[endpoint] = MappingProxyType(rest)
        object.__setattr__(self, "defaults", MappingProxyType(kept))
        object.__setattr__(self, "placed", MappingProxyType(placed))
        object.__setattr__(self, "unplaced", MappingProxyType(unplaced))


def _check(origin: str, name: str, value: Any) -> None:
    options = [option for option in OPTIONS if option.name == name]
    if not options:
        nearest = difflib.get_close_matches(name, LAYERED, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"options: {', '.join(sorted(LAYERED))}."
        raise InvalidDefault(origin, name, f"is not a decoding option; {hint}")
    if name not in LAYERED:
        raise InvalidDefault(origin, name, "can only be set by a request.")
    if not any(option.kind.accepts(value) for option in options):
        raise InvalidDefault(origin, name, f"must be {options[0].kind.expected}, got {quote(value)}.")


def _check_forms(origin: str, entries: Placed) -> None:
    forms = [option.name for option, _, _ in entries if option.form]
    if len(forms) > 1:
        raise InvalidDefault(origin, forms[1], f"cannot be combined with {forms[0]}: both set the format.")


def _place(defaults: Mapping[str, Any], endpoint: Endpoint) -> Placed:
    """Map each default to its field on this endpoint; a single stop text becomes a list where a list is required."""
    placed = []
    for option in OPTIONS:
        if option.name in defaults and endpoint in option.endpoints:
            value = defaults[option.name]
            value = value if option.kind.accepts(value) else [value]
            placed.append((option, option.names(endpoint)[0], value))
    return tuple(placed)


def model_defaults(generation_config: Mapping[str, Any]) -> Layer:
    """The lowest layer: the values of the model's own generation_config.json, with origin "model".

    vLLM also applies them itself (`vllm.config.ModelConfig.get_diff_sampling_param`); the layer makes them visible
    among the origins. Keys that are not decoding options, and values that no request could send, are ignored.
    """
    given = {name: generation_config.get(name) for name in _FROM_GENERATION_CONFIG}
    given["max_tokens"] = generation_config.get(_LENGTH_IN_GENERATION_CONFIG)
    kinds = {option.name: option.kind for option in OPTIONS}
    return Layer("model", {name: value for name, value in given.items() if kinds[name].accepts(value)})
