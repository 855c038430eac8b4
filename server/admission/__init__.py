"""Admission control per tenant: request and token rates, concurrency, token budgets and request sizes."""

from __future__ import annotations

from server.admission.errors import (
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    AdmissionError,
    BudgetExhausted,
    NeverFits,
    RateLimited,
    TooManyConcurrent,
    TryLater,
)
from server.admission.reservations import Admission, Reservation

__all__ = [
    "MAX_RETRY_AFTER_S",
    "MIN_RETRY_AFTER_S",
    "Admission",
    "AdmissionError",
    "BudgetExhausted",
    "NeverFits",
    "RateLimited",
    "Reservation",
    "TooManyConcurrent",
    "TryLater",
]
