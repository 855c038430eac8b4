"""May a request enter? Rates, concurrency, budgets and sizes, per tenant."""

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
from server.fairness.policy import Capacity

__all__ = [
    "MAX_RETRY_AFTER_S",
    "MIN_RETRY_AFTER_S",
    "Admission",
    "AdmissionError",
    "BudgetExhausted",
    "Capacity",
    "NeverFits",
    "Policy",
    "RateLimited",
    "Reservation",
    "TooManyConcurrent",
    "TryLater",
]
