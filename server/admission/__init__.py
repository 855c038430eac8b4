"""Admission control per tenant: request and token rates, concurrency, token budgets and request sizes."""

from __future__ import annotations

from server.admission.reservations import Admission, Reservation

__all__ = ["Admission", "Reservation"]
