"""Who goes next, and within which budget of the engine. Pure Python: no vLLM, no asyncio."""

from __future__ import annotations

from server.fairness.policy import (
    OPERATOR_POLICY,
    Capacity,
    GuaranteesTooLarge,
    InvalidPolicy,
    Policy,
    Share,
    check_guarantees,
    read_stamp,
    stamp,
)

__all__ = [
    "OPERATOR_POLICY",
    "Capacity",
    "GuaranteesTooLarge",
    "InvalidPolicy",
    "Policy",
    "Share",
    "check_guarantees",
    "read_stamp",
    "stamp",
]
