"""The operator's limits on the options of a request.

| limit           | a request above the limit                                                               |
|-----------------|-----------------------------------------------------------------------------------------|
| `max_tokens`    | gets the limit as its `max_tokens`; the header `x-loragate-clamped` reports it          |
| `n`             | is refused: fewer answers than requested would break code that indexes them             |
| `top_logprobs`  | is refused for the same reason; covers logprobs, prompt_logprobs and logprob_token_ids  |
| `stop_count`    | is refused: without a stop string the answer would differ; token ids do not count       |
| `prompt_tokens` | is refused: a shortened prompt is another prompt                                        |

The others bound what a request costs before and beside the model. The server has defaults for them
(`DEFAULT_LIMITS`), which an operator can raise, or lift with null. A request above one is refused
(`sampling.json_limits`).

| limit                | what it bounds                                                                     |
|----------------------|------------------------------------------------------------------------------------|
| `messages`, `tools`  | how many of them                                                                   |
| `prompts`            | prompts of /v1/completions x `n`                                                   |
| `text_bytes`         | all texts of the body together, in UTF-8                                           |
| `body_values`        | JSON values of the body, of any kind                                               |
| `body_depth`         | levels of JSON arrays and objects within each other                                |
| `option_values`      | JSON values of everything but prompts and tools: token ids, biases, metadata, …    |
| `bad_words`          | how many of them; 64 times as many characters together                             |
| `logprobs`           | log-probabilities of all answers: n x max_tokens x (top_logprobs + 1)              |
| `prompt_logprobs`    | those of the prompt: n x prompt tokens x (prompt_logprobs + 1)                     |
| `schema_bytes`, `schema_depth`, `compile_s` | one schema or grammar (`schema_bytes`: all tools together, too); |
|                      | `server.engine.decoding` enforces them                                             |
| `render_s`           | seconds of reading, rendering and tokenizing one large request                     |

Only `max_tokens` is clamped, because a shortened answer is marked (`finish_reason: "length"`). A request without
`max_tokens` gets the limit, because vLLM would otherwise use the rest of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from sampling.endpoints import Endpoint
from sampling.errors import InvalidLimit, LimitExceeded, quote
from sampling.options import COMPLETIONS_MAX_TOKENS
from sampling.validation import LENGTH_NAMES, effective_name


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest allowed values of a request; None means no limit.

    Raises:
        InvalidLimit: a limit is not an integer of at least 1 (`top_logprobs`, `stop_count` and `bad_words`: 0).
    """

    max_tokens: int | None = None
    n: int | None = None
    top_logprobs: int | None = None
    stop_count: int | None = None
    prompt_tokens: int | None = None
    messages: int | None = None
    tools: int | None = None
    prompts: int | None = None
    text_bytes: int | None = None
    body_values: int | None = None
    body_depth: int | None = None
    option_values: int | None = None
    bad_words: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    schema_bytes: int | None = None
    schema_depth: int | None = None
    compile_s: int | None = None
    render_s: int | None = None

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self)):
            value, least = getattr(self, name), 0 if name in _ZERO else 1
            if value is not None and (type(value) is not int or value < least):
                raise InvalidLimit(
                    f"The limit {name} must be an integer of at least {least} or absent, got {quote(value)}."
                )


#: Limits that may be 0: nothing of the kind is allowed.
_ZERO: Final = ("top_logprobs", "stop_count", "bad_words")

NO_LIMITS: Final = Limits()
#: The server's limits where the operator sets none; no honest client meets them. With them, one request occupies the
#: event loop for at most 20 ms at a time (`docs/decisions/0008-large-bodies-are-read-in-worker-processes.md`).
DEFAULT_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "n": 128,
        "messages": 4096,
        "tools": 512,
        "prompts": 1024,
        "text_bytes": 8 << 20,
        "body_values": 1_000_000,
        "body_depth": 100,
        "option_values": 16384,
        "bad_words": 256,
        "logprobs": 1_000_000,
        "prompt_logprobs": 65536,
        "schema_bytes": 256 << 10,
        "schema_depth": 64,
        "compile_s": 10,
        "render_s": 30,
    }
)


@lru_cache(maxsize=1024)
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


def fit_logprobs(limits: Limits, *, n: int, per_token: int, max_tokens: int, chosen: bool) -> int:
    """The largest max_tokens whose log-probabilities are within the limit.

    Args:
        limits: of the request.
        n: answers.
        per_token: log-probabilities of a token, its own included.
        max_tokens: of each answer.
        chosen: whether the request has named max_tokens; a default is reduced.

    Raises:
        LimitExceeded: `logprobs` is above its limit.
    """
    if limits.logprobs is None or n * max_tokens * per_token <= limits.logprobs:
        return max_tokens
    fitting = limits.logprobs // (n * per_token)
    if chosen or fitting == 0:
        counted = f"n x max_tokens x logprobs ({n} x {max_tokens} x {per_token})"
        raise LimitExceeded("max_tokens", n * max_tokens * per_token, limits.logprobs, counted=counted)
    return fitting


def check_prompt_logprobs(limits: Limits, *, n: int, per_token: int, prompt_tokens: int) -> None:
    """Check the number of a prompt's log-probabilities. Raises: LimitExceeded."""
    count = n * per_token * prompt_tokens
    if limits.prompt_logprobs is not None and count > limits.prompt_logprobs:
        counted = f"n x prompt tokens x logprobs ({n} x {prompt_tokens} x {per_token})"
        raise LimitExceeded("prompt_logprobs", count, limits.prompt_logprobs, counted=counted)


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
