"""Which value holds for each option of a request: server < adapter version < tenant < preset < request.

Below them all stands the model's own generation config, above them all the operator's limits.
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
from sampling.params import LENGTH_NAMES, obeyed_name, options_on, validate
from sampling.presets import Presets

NO_DEFAULTS: Final = Layer("none")

_GREEDY_BELOW = 1e-5  # vllm.sampling_params._SAMPLING_EPS


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request's body with all defaults filled in, ready for vLLM's handler."""

    body: dict[str, Any]
    """New; without `preset` and without nulls of decoding options. The values in it are the caller's own."""
    origins: dict[str, str]
    """Where each option comes from, by its name in the table: "request", "preset:…", "tenant", "adapter",
    "server", "model", "limit"."""
    clamped: tuple[str, ...]
    """What holds instead of what was asked for, as the header says it: ("max_tokens=512",)."""
    unplaced: dict[str, Any] = field(default_factory=dict)
    """Defaults that hold though this endpoint's requests have no field for them, by their name in the table:
    for the code that sees vLLM's `SamplingParams`."""
    repetition: str = "off"
    """What is done when the answer goes in circles: "off", "stop" or "adjust"; not in the body."""

    def effective(self, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
        """Every option that something has set, by its name in the table: {"value": …, "from": …}.

        What is not here has the table's default.
        """
        values = dict(self.unplaced)
        for name, option in options_on(endpoint).items():
            if name in self.body and obeyed_name(option.names(endpoint), self.body) == name:
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
    """Validate the body, fill in the defaults, apply the limits. The body passed in is not changed.

    `limits` are those of all layers, tightened. A preset named in the body beats the one in the header.

    Raises:
        InvalidParameter: a field's value is wrong, or contradicts another one.
        UnknownPreset: the preset does not exist.
        LimitExceeded: the request asks for more than a limit that is not clamped.
    """
    validate(body, endpoint)
    resolved = _asked(body, endpoint)
    name = body.get("preset") or (preset_header or "").strip()
    preset = presets.find(name) if name else NO_DEFAULTS
    for layer in (preset, tenant, adapter, server, model):
        if layer.defaults:
            _fill(resolved, layer, endpoint)
    clamped = (*_clamp(resolved, limits, endpoint), *_raise_temperature(resolved))
    _fit_min_tokens(resolved, endpoint)
    _check_answers(resolved)
    repetition = resolved.body.pop("repetition", "off")
    return Resolved(resolved.body, resolved.origins, clamped, resolved.unplaced, repetition)


def _asked(body: Mapping[str, Any], endpoint: Endpoint) -> Resolved:
    """The body without `preset` and without nulls of decoding options, and what of it the request decided."""
    known = options_on(endpoint)
    asked: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in body.items():
        if (option := known.get(name)) is None:
            asked[name] = value
        elif value is not None and name != "preset":
            asked[name] = value
            origins[option.name] = "request"
    return Resolved(asked, origins, ())


def _fill(resolved: Resolved, layer: Layer, endpoint: Endpoint) -> None:
    body, origins = resolved.body, resolved.origins
    for option, name, value in layer.placed[endpoint]:
        if option.name in origins or (option.form and _has_form(body, endpoint)):
            continue
        # A default belongs to every request: what a handler does to one body must not reach the next.
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
    clamp = limiting.apply(limits, resolved.body, endpoint)
    if clamp is None:
        return ()
    resolved.body[clamp.field] = clamp.value
    resolved.origins["max_tokens"] = "limit"
    return (f"max_tokens={clamp.value}",)


def _raise_temperature(resolved: Resolved) -> tuple[str, ...]:
    """Do, and say, what the engine would do with a line in its log (`SamplingParams.__post_init__`)."""
    if not 0 < resolved.body.get("temperature", 0) < LOWEST_TEMPERATURE:
        return ()
    resolved.body["temperature"] = LOWEST_TEMPERATURE
    return (f"temperature={LOWEST_TEMPERATURE}",)


def _fit_min_tokens(resolved: Resolved, endpoint: Endpoint) -> None:
    """Hold min_tokens against max_tokens, as vLLM will, but with the reason, which may lie in a layer.

    A `min_tokens` that is only a default gives way to the `max_tokens` that holds.
    """
    body, origins = resolved.body, resolved.origins
    least = body.get("min_tokens")
    if least is None:
        return
    name = obeyed_name(LENGTH_NAMES[endpoint], body)
    most = body[name] if name else COMPLETIONS_MAX_TOKENS if endpoint is Endpoint.COMPLETIONS else least
    if least <= most:
        return
    if origins["min_tokens"] == "request":
        reason = origins.get("max_tokens", "the default")
        raise InvalidParameter("min_tokens", least, f"at most max_tokens={most} (set by {reason})")
    body["min_tokens"] = most


def _check_answers(resolved: Resolved) -> None:
    """Refuse several answers of greedy decoding, as vLLM will, but with the reason."""
    answers, temperature = resolved.body.get("n", 1), resolved.body.get("temperature")
    if answers == 1 or temperature is None or resolved.body.get("use_beam_search"):
        return
    if temperature < _GREEDY_BELOW:
        reason = resolved.origins["temperature"]
        raise InvalidParameter("n", answers, f"1 when temperature is 0 (set by {reason})")
