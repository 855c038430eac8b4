"""Resolves the value of each option of a request: server < adapter version < tenant < preset < request.

The model's own generation config is the lowest layer; the operator's limits apply last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sampling import limits as limiting
from sampling.defaults import Layer
from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter
from sampling.limits import Limits
from sampling.options import COMPLETIONS_MAX_TOKENS, LOWEST_TEMPERATURE
from sampling.presets import Presets
from sampling.validation import LENGTH_NAMES, effective_name, options_on, validate

NO_DEFAULTS: Final = Layer("none")

_GREEDY_BELOW = 1e-5  # vllm.sampling_params._SAMPLING_EPS


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request's body with all defaults, ready for vLLM's handler."""

    body: dict[str, Any]
    """A new object without `preset` and without nulls of decoding options; its values are the caller's objects."""
    origins: dict[str, str]
    """Where each option comes from, by its name in the table: "request", "preset:…", "tenant", "adapter",
    "server", "model", "limit"."""
    clamped: tuple[str, ...]
    """The values that replace requested ones, in the form of the header: ("max_tokens=512",)."""
    unplaced: dict[str, Any] = field(default_factory=dict)
    """Defaults for which this endpoint's requests have no field, by their name in the table. The code that sets
    vLLM's `SamplingParams` applies them."""
    repetition: str = "off"
    """The reaction to a repetition loop: "off", "stop" or "adjust"; not part of the body."""

    def effective(self, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
        """Every option that is set, by its name in the table: {"value": …, "from": …}.

        All other options have the table's default.
        """
        values = dict(self.unplaced)
        for name, option in options_on(endpoint).items():
            if name in self.body and effective_name(option.names(endpoint), self.body) == name:
                values[option.name] = self.body[name]
        if "repetition" in self.origins:
            values["repetition"] = self.repetition
        return {
            name: {"value": values[name], "from": origin}
            for name, origin in self.origins.items()
            if name in values
        }


def resolve(
    body: Mapping[str, Any],
    *,
    endpoint: Endpoint,
    server: Layer,
    adapter: Layer,
    tenant: Layer,
    presets: Presets,
    preset_header: str | None,
    limits: Limits,
    model: Layer = NO_DEFAULTS,
) -> Resolved:
    """Validate the body, add the defaults, apply the limits. The passed body is not changed.

    `limits` combine the limits of all layers. A preset in the body takes precedence over one in the header.

    Raises:
        InvalidParameter: a field's value is invalid, or conflicts with another field.
        UnknownPreset: the preset does not exist.
        LimitExceeded: the request exceeds a limit that is not clamped.
    """
    validate(body, endpoint)
    resolved = _request_options(body, endpoint)
    name = body.get("preset") or (preset_header or "").strip()
    preset = presets.find(name) if name else NO_DEFAULTS
    for layer in (preset, tenant, adapter, server, model):
        if layer.defaults:
            _apply_layer(resolved, layer, endpoint)
    clamped = (*_clamp(resolved, limits, endpoint), *_raise_temperature(resolved))
    _fit_min_tokens(resolved, endpoint)
    _check_answers(resolved)
    repetition = resolved.body.pop("repetition", "off")
    return Resolved(resolved.body, resolved.origins, clamped, resolved.unplaced, repetition)


def _request_options(body: Mapping[str, Any], endpoint: Endpoint) -> Resolved:
    """The body without `preset` and without nulls of decoding options, and the options that the request sets."""
    known = options_on(endpoint)
    requested: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in body.items():
        if (option := known.get(name)) is None:
            requested[name] = value
        elif value is not None and name != "preset":
            requested[name] = value
            origins[option.name] = "request"
    return Resolved(requested, origins, ())


def _apply_layer(resolved: Resolved, layer: Layer, endpoint: Endpoint) -> None:
    body, origins = resolved.body, resolved.origins
    for option, name, value in layer.placed[endpoint]:
        if option.name in origins or (option.form and _has_form(body, endpoint)):
            continue
        # All requests share a default, so a handler that changes one body must not change the next.
        body[name] = copy.deepcopy(value) if isinstance(value, list | dict) else value
        origins[option.name] = layer.origin
    for name, value in layer.unplaced[endpoint].items():
        if name not in origins:
            resolved.unplaced[name] = copy.deepcopy(value)
            origins[name] = layer.origin


def _has_form(body: Mapping[str, Any], endpoint: Endpoint) -> bool:
    known = options_on(endpoint)
    return any(known[name].form for name in body if name in known)


def _clamp(resolved: Resolved, limits: Limits, endpoint: Endpoint) -> tuple[str, ...]:
    field_name = limiting.apply(limits, resolved.body, endpoint)
    if field_name is None:
        return ()
    resolved.body[field_name] = limits.max_tokens
    resolved.origins["max_tokens"] = "limit"
    return (f"max_tokens={limits.max_tokens}",)


def _raise_temperature(resolved: Resolved) -> tuple[str, ...]:
    """Raise a tiny temperature and report it; the engine would only log it (`SamplingParams.__post_init__`)."""
    if not 0 < resolved.body.get("temperature", 0) < LOWEST_TEMPERATURE:
        return ()
    resolved.body["temperature"] = LOWEST_TEMPERATURE
    return (f"temperature={LOWEST_TEMPERATURE}",)


def _fit_min_tokens(resolved: Resolved, endpoint: Endpoint) -> None:
    """Check min_tokens against max_tokens, as vLLM does, but name the layer that causes the conflict.

    A `min_tokens` that is only a default is lowered to the effective `max_tokens`.
    """
    body, origins = resolved.body, resolved.origins
    least = body.get("min_tokens")
    if least is None:
        return
    name = effective_name(LENGTH_NAMES[endpoint], body)
    most = body[name] if name else COMPLETIONS_MAX_TOKENS if endpoint is Endpoint.COMPLETIONS else least
    if least <= most:
        return
    if origins["min_tokens"] == "request":
        reason = origins.get("max_tokens", "the default")
        raise InvalidParameter("min_tokens", least, f"at most max_tokens={most} (set by {reason})")
    body["min_tokens"] = most


def _check_answers(resolved: Resolved) -> None:
    """Refuse several answers of greedy decoding, as vLLM does, but name the layer that causes the conflict."""
    answers, temperature = resolved.body.get("n", 1), resolved.body.get("temperature")
    if answers == 1 or temperature is None or resolved.body.get("use_beam_search"):
        return
    if temperature < _GREEDY_BELOW:
        reason = resolved.origins["temperature"]
        raise InvalidParameter("n", answers, f"1 when temperature is 0 (set by {reason})")
