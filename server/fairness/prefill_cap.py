"""Splits a step's tokens among prompts, so that one long prompt does not block the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def prompt_cap(waiting: Collection[int], prefilling: Mapping[str, Iterable[int]], tokens: int) -> int:
    """The maximum of prompt tokens that one request may compute in a step; 0 for no cap.

    Args:
        waiting: tokens of the prompts that may start in the step, one of each tenant that computes none yet.
        prefilling: tenant -> tokens that each of its running prompts still has to compute.
        tokens: the step's token budget less one token for each decoding request.
    """
    if len(prefilling) + len(waiting) < 2:
        return 0
    return max_min_cap([*waiting, *(demand for own in prefilling.values() for demand in own)], tokens)


def max_min_cap(demands: Iterable[int], tokens: int) -> int:
    """The largest cap with which `sum(min(cap, demand))` stays within `tokens` (max-min fairness).

    Returns 0 when no cap is needed, else at least 1.
    """
    remaining = max(tokens, 0)
    ordered = sorted(demands)
    if sum(ordered) <= remaining:
        return 0
    for served, demand in enumerate(ordered):
        level = remaining // (len(ordered) - served)
        if demand > level:
            return max(level, 1)
        remaining -= demand
    return 0
