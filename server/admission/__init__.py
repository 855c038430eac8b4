"""Admission control per tenant: request and token rates, concurrency, token budgets and request sizes."""

from __future__ import annotations

from server.admission.reservation import Reservation
from server.admission.reservations import Admission

__all__ = ["Admission", "Reservation"]
