"""Sequential tests of rates: evidence that may be looked at after every answer, without more false alarms.

The evidence is the logarithm of a mixture likelihood ratio (mSPRT: Robbins 1970, Johari et al. 2022 "Always Valid
Inference"). If the null hypothesis holds, it ever exceeds log(1/a) with a probability of at most a (Ville 1939),
however often it is looked at. It depends on counts and not on their order, so those of several servers can be added.

`evidence_above`: null hypothesis "the rate is at most `limit`". The alternatives are rates whose log-odds are a step
above the limit's. Each likelihood ratio is a supermartingale for every smaller rate, too, because it grows with each
bad answer.

`evidence_worse`: null hypothesis "the rate is at most the other version's". The common rate is not known: for each
possible border between the two rates, the product of the evidence that one is above and the other is below it; the
smallest product counts (universal inference: Wasserman, Ramdas, Balakrishnan 2020). Both factors are monotone in the
border, so a grid bounds the smallest product from below, and the bound on false alarms is exact, not asymptotic.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

Numbers: TypeAlias = Any  # numpy's types of operations are too wide for NDArray[np.float64]

#: The alternatives: steps of the log-odds, with equal weights.
_STEPS = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
#: The borders between two rates, as log-odds; beyond, the limits of both factors are used.
_BORDERS = np.arange(-12.0, 12.0, 0.02)


def proves_above(bad: int, total: int, limit: float, needed: float) -> bool:
    """Whether the evidence that the rate is above `limit` reaches `needed`, at little cost where it cannot."""
    if not bad or (0 < limit < 1 and _divergence(bad, total, limit) < needed):
        return False
    return evidence_above(bad, total, limit) >= needed


def proves_worse(bad: int, total: int, other_bad: int, other_total: int, needed: float) -> bool:
    """Whether the evidence that the rate is above the other's reaches `needed`, at little cost where it cannot."""
    counts = (bad, total, other_bad, other_total)
    return most_evidence(*counts) >= needed and evidence_worse(*counts) >= needed


def evidence_above(bad: int, total: int, limit: float) -> float:
    """Evidence that the rate of bad answers is above `limit`, of `bad` in `total` answers."""
    if limit <= 0:
        return math.inf if bad else 0.0
    if limit >= 1:
        return -math.inf
    border = np.array([math.log(limit / (1 - limit))])
    return float(_above(bad, total, border)[0])


def most_evidence(bad: int, total: int, other_bad: int, other_total: int) -> float:
    """What `evidence_worse` cannot exceed, and takes no time: the largest likelihood ratio at the common rate."""
    if not total or not other_total or bad * other_total <= other_bad * total:
        return 0.0
    common = (bad + other_bad) / (total + other_total)
    return _divergence(bad, total, common) + _divergence(other_bad, other_total, common)


def _divergence(bad: int, total: int, rate: float) -> float:
    parts = ((bad, rate), (total - bad, 1 - rate))
    return sum(count * math.log(count / (total * share)) for count, share in parts if count)


@lru_cache(maxsize=4096)
def evidence_worse(bad: int, total: int, other_bad: int, other_total: int) -> float:
    """Evidence that the rate of bad answers is above that of another version."""
    # Between two neighbouring borders: the one factor is at least that of the upper, the other that of the lower.
    above = np.append(_above(bad, total, _BORDERS), _mixture((bad - total) * _STEPS))
    below = np.insert(_below(other_bad, other_total, _BORDERS), 0, _mixture(-other_bad * _STEPS))
    return float(np.min(above + below))


def _above(bad: int, total: int, borders: Numbers) -> Numbers:
    """Evidence that the rate is above each border; falls with the border."""
    steps = _STEPS[:, None]
    return _mixture(bad * steps - total * (_softplus(borders + steps) - _softplus(borders)))


def _below(bad: int, total: int, borders: Numbers) -> Numbers:
    """Evidence that the rate is below each border; grows with the border."""
    steps = _STEPS[:, None]
    return _mixture(-bad * steps - total * (_softplus(borders - steps) - _softplus(borders)))


def _mixture(log_ratios: Numbers) -> Any:
    """The logarithm of the mean of likelihood ratios over the first axis."""
    largest = log_ratios.max(axis=0)
    return largest + np.log(np.exp(log_ratios - largest).mean(axis=0))


def _softplus(x: Numbers) -> Numbers:
    return np.logaddexp(0.0, x)
