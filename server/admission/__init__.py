"""Admission control per tenant: request and token rates, concurrency, token budgets and request sizes."""

from __future__ import annotations

from server.admission.admission import Admission
from server.admission.reservation import Reservation

__all__ = ["Admission", "Reservation"]
