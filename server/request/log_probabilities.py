"""Bounds the log-probabilities of one generation: the event loop builds and writes each of them."""

from __future__ import annotations

from typing import Any

from sampling.limits import Limits, check_prompt_logprobs, fit_logprobs
from sampling.resolution import Resolved

#: What `logprobs: -1` counts as; it needs `--engine-args` to be allowed.
_WHOLE_VOCABULARY = 1 << 17


def bound_logprobs(limits: Limits, sampling: Resolved, prompt_tokens: int, params: Any) -> None:
    """Check the log-probabilities of a generation; reduces `max_tokens` where the caller did not choose it.

    Args:
        limits: those of the request.
        sampling: the options with their origins.
        prompt_tokens: length of the prompt.
        params: vLLM's `SamplingParams`.

    Raises:
        LimitExceeded: too many.
    """
    if params.prompt_logprobs is not None:
        per_token = _of_each_token(params.prompt_logprobs)
        check_prompt_logprobs(limits, n=params.n, per_token=per_token, prompt_tokens=prompt_tokens)
    if params.logprobs is not None:
        params.max_tokens = fit_logprobs(
            limits,
            n=params.n,
            per_token=len(params.logprob_token_ids or ()) + _of_each_token(params.logprobs),
            max_tokens=params.max_tokens,
            chosen="max_tokens" in sampling.origins,
        )


def _of_each_token(asked: int) -> int:
    """Its own and those of the `asked` likeliest ones; -1 asks for all."""
    return 1 + asked if asked >= 0 else _WHOLE_VOCABULARY
