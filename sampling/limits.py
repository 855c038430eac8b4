"""The operator's limits on what a request may ask for.

| limit           | a request above it                                                                      |
|-----------------|-----------------------------------------------------------------------------------------|
| `max_tokens`    | gets the limit as its `max_tokens` and is told so (`x-loragate-clamped`)                |
| `n`             | is refused: fewer answers than asked for would break code that indexes them             |
| `top_logprobs`  | is refused, likewise; counts logprobs, prompt_logprobs and logprob_token_ids too        |
| `stop_count`    | is refused: without a stop string the answer would be another; token ids do not count   |
| `prompt_tokens` | is refused: a cut prompt is another prompt                                              |

`max_tokens` alone is clamped, because an answer that was cut says so itself (`finish_reason: "length"`).
Without a `max_tokens` in the request the limit is filled in, or vLLM would take the rest of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sampling.endpoints import Endpoint
from sampling.errors import InvalidLimit, LimitExceeded, quote
from sampling.options import COMPLETIONS_MAX_TOKENS
from sampling.params import LENGTH_NAMES, obeyed_name


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a request may have of each; None is no limit.

    Raises:
        InvalidLimit: a limit is not an integer of at least 1 (`top_logprobs` and `stop_count`: 0).
    """

    max_tokens: int | None = None
    n: int | None = None
    top_logprobs: int | None = None
    stop_count: int | None = None
    prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("max_tokens", 1),
            ("n", 1),
            ("top_logprobs", 0),
            ("stop_count", 0),
            ("prompt_tokens", 1),
        ):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise InvalidLimit(
                    f"The limit {name} must be an integer of at least {least} or absent, got {quote(value)}."
                )


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Clamp:
    """`max_tokens` as the limit makes it: the field of the body to set, and the value."""

    field: str
    value: int


def tighten(lower: Limits, upper: Limits) -> Limits:
    """The limits of a layer within those of the layer above it: of each the smaller one.

    A lower layer may only tighten: where it says more than the upper one, or nothing, the upper one holds.
    """
    smaller = {}
    for item in fields(Limits):
        values = [v for v in (getattr(lower, item.name), getattr(upper, item.name)) if v is not None]
        smaller[item.name] = min(values, default=None)
    return Limits(**smaller)


def apply(limits: Limits, body: Mapping[str, Any], endpoint: Endpoint) -> Clamp | None:
    """Hold a valid body, with its defaults filled in, against the limits.

    Returns the clamp of `max_tokens` that the caller must write into the body, if one is needed.

    Raises:
        LimitExceeded: n, logprobs of any kind, or the number of stop strings is above its limit.
    """
    if limits is NO_LIMITS:
        return None
    if limits.n is not None and (body.get("n") or 1) > limits.n:
        raise LimitExceeded("n", int(body["n"]), limits.n)
    if limits.top_logprobs is not None:
        _check_logprobs(limits.top_logprobs, body)
    if limits.stop_count is not None:
        _check_stops(limits.stop_count, body, "stop_sequences" if endpoint is Endpoint.MESSAGES else "stop")
    return None if limits.max_tokens is None else _clamp(limits.max_tokens, body, endpoint)


def check_prompt(limits: Limits, prompt_tokens: int) -> None:
    """Hold a tokenized prompt against the limit.

    Raises:
        LimitExceeded: the prompt has more tokens than `limits.prompt_tokens`.
    """
    if limits.prompt_tokens is not None and prompt_tokens > limits.prompt_tokens:
        raise LimitExceeded("prompt", prompt_tokens, limits.prompt_tokens, counted="prompt length in tokens")


def _check_logprobs(limit: int, body: Mapping[str, Any]) -> None:
    for name in ("top_logprobs", "logprobs", "prompt_logprobs"):
        asked = body.get(name)
        if asked is None or type(asked) is bool:
            continue
        if asked < 0:
            raise LimitExceeded(name, int(asked), limit, counted=f"{name} (-1: the whole vocabulary)")
        if asked > limit:
            raise LimitExceeded(name, int(asked), limit)
    if (ids := body.get("logprob_token_ids")) and len(ids) > limit:
        raise LimitExceeded("logprob_token_ids", len(ids), limit, counted="number of logprob_token_ids")


def _check_stops(limit: int, body: Mapping[str, Any], name: str) -> None:
    stops = body.get(name)
    count = 1 if isinstance(stops, str) else len(stops or ())
    if count > limit:
        raise LimitExceeded(name, count, limit, counted=f"number of {name} strings")


def _clamp(limit: int, body: Mapping[str, Any], endpoint: Endpoint) -> Clamp | None:
    names = LENGTH_NAMES[endpoint]
    name = obeyed_name(names, body)
    if name is not None:
        return Clamp(name, limit) if body[name] > limit else None
    if endpoint is Endpoint.COMPLETIONS and limit >= COMPLETIONS_MAX_TOKENS:
        return None
    return Clamp(names[0], limit)
