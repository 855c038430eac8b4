"""The operator's limits on the options of a request.

| limit           | a request above the limit                                                               |
|-----------------|-----------------------------------------------------------------------------------------|
| `max_tokens`    | gets the limit as its `max_tokens`; the header `x-loragate-clamped` reports it          |
| `n`             | is refused: fewer answers than requested would break code that indexes them             |
| `top_logprobs`  | is refused for the same reason; covers logprobs, prompt_logprobs and logprob_token_ids  |
| `stop_count`    | is refused: without a stop string the answer would differ; token ids do not count       |
| `prompt_tokens` | is refused: a shortened prompt is another prompt                                        |

Only `max_tokens` is clamped, because a shortened answer is marked (`finish_reason: "length"`). A request without
`max_tokens` gets the limit, because vLLM would otherwise use the rest of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sampling.endpoints import Endpoint
from sampling.errors import InvalidLimit, LimitExceeded, quote
from sampling.options import COMPLETIONS_MAX_TOKENS
from sampling.params import LENGTH_NAMES, effective_name


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest allowed values of a request; None means no limit.

    Raises:
        InvalidLimit: a limit is not an integer of at least 1 (`top_logprobs` and `stop_count`: 0).
    """

    max_tokens: int | None = None
    n: int | None = None
    top_logprobs: int | None = None
    stop_count: int | None = None
    prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self)):
            value, least = getattr(self, name), 0 if name in ("top_logprobs", "stop_count") else 1
            if value is not None and (type(value) is not int or value < least):
                raise InvalidLimit(
                    f"The limit {name} must be an integer of at least {least} or absent, got {quote(value)}."
                )


NO_LIMITS: Final = Limits()


def tighten(lower: Limits, upper: Limits) -> Limits:
    """Combine the limits of a layer with those of the layer above it: the smaller value of each limit.

    A lower layer can only tighten: when its limit is larger or missing, the upper limit applies.
    """
    smaller = {}
    for item in fields(Limits):
        values = [v for v in (getattr(lower, item.name), getattr(upper, item.name)) if v is not None]
        smaller[item.name] = min(values, default=None)
    return Limits(**smaller)


def apply(limits: Limits, body: Mapping[str, Any], endpoint: Endpoint) -> str | None:
    """Check a valid body, with its defaults, against the limits.

    Returns the field of the body that the caller must set to `limits.max_tokens`, if one needs it.

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
    return None if limits.max_tokens is None else _clamped_field(limits.max_tokens, body, endpoint)


def check_prompt(limits: Limits, prompt_tokens: int) -> None:
    """Check the length of a tokenized prompt against the limit.

    Raises:
        LimitExceeded: the prompt has more tokens than `limits.prompt_tokens`.
    """
    if limits.prompt_tokens is not None and prompt_tokens > limits.prompt_tokens:
        raise LimitExceeded("prompt", prompt_tokens, limits.prompt_tokens, counted="prompt length in tokens")


def _check_logprobs(limit: int, body: Mapping[str, Any]) -> None:
    for name in ("top_logprobs", "logprobs", "prompt_logprobs"):
        requested = body.get(name)
        if requested is None or type(requested) is bool:
            continue
        if requested < 0:
            raise LimitExceeded(name, int(requested), limit, counted=f"{name} (-1: the whole vocabulary)")
        if requested > limit:
            raise LimitExceeded(name, int(requested), limit)
    if (ids := body.get("logprob_token_ids")) and len(ids) > limit:
        raise LimitExceeded("logprob_token_ids", len(ids), limit, counted="number of logprob_token_ids")


def _check_stops(limit: int, body: Mapping[str, Any], name: str) -> None:
    stops = body.get(name)
    count = 1 if isinstance(stops, str) else len(stops or ())
    if count > limit:
        raise LimitExceeded(name, count, limit, counted=f"number of {name} strings")


def _clamped_field(limit: int, body: Mapping[str, Any], endpoint: Endpoint) -> str | None:
    names = LENGTH_NAMES[endpoint]
    name = effective_name(names, body)
    if name is not None:
        return name if body[name] > limit else None
    if endpoint is Endpoint.COMPLETIONS and limit >= COMPLETIONS_MAX_TOKENS:
        return None
    return names[0]
