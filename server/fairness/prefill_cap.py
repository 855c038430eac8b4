"""Splits a step's tokens among prompts, so that one long prompt does not block the others."""

from __future__ import annotations

from collections.abc import Iterable


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
