"""Figures of paired comparisons, with bounds that hold with 95 % confidence for one look at them.

For shares, whose differences lie between -1 and 1, the bound is the empirical Bernstein inequality (Maurer, Pontil
2009, theorem 4): it holds for any distribution and any number of comparisons. For lengths and times, which have no
largest value, it is the normal approximation, which needs some 30 comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CONFIDENCE = 0.95
_NORMAL = 1.96
#: Metrics without a largest value.
UNBOUNDED = ("answer_tokens", "seconds")
_LEAST_FOR_NORMAL = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of a shadow against the version that served: both means, and the difference with its bounds.

    `low` and `high` are None where there are too few comparisons to say anything.
    """

    count: int
    served: float
    shadow: float
    difference: float
    low: float | None
    high: float | None


def figures_of(sums: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """The figures of the sums of each metric (`adapters.registry.figures.shadows.SUMS`)."""
    return {name: _figure(name, *added) for name, added in sums.items() if added[0] >= 1}


def _figure(
    name: str,
    count: float,
    served: float,
    served_squares: float,
    shadow: float,
    shadow_squares: float,
    difference_squares: float,
) -> Figure:
    mean = (shadow - served) / count
    half = _half_width(name, count, mean, difference_squares)
    bounds = (None, None) if half is None else (mean - half, mean + half)
    if half is not None and name not in UNBOUNDED:
        bounds = max(-1.0, mean - half), min(1.0, mean + half)
    low, high = (None if bound is None else round(bound, 6) for bound in bounds)
    return Figure(int(count), round(served / count, 6), round(shadow / count, 6), round(mean, 6), low, high)


def _half_width(name: str, count: float, mean: float, difference_squares: float) -> float | None:
    if count < 2:
        return None
    variance = max(0.0, (difference_squares - count * mean * mean) / (count - 1))
    if name in UNBOUNDED:
        return _NORMAL * math.sqrt(variance / count) if count >= _LEAST_FOR_NORMAL else None
    spread = math.log(4 / (1 - _CONFIDENCE))
    return math.sqrt(2 * variance * spread / count) + 2 * 7 * spread / (3 * (count - 1))
