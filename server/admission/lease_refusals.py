"""What a request is told when all servers together have reached a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adapters.billing.money import nanos_text
from adapters.registry.replicas.leases import Granted, LeaseKind, LeaseOrder
from server.admission.errors import BudgetExhausted, RateLimited, TooManyConcurrent, TryLater
from server.admission.leased_parts import LeaseShort

_LIMITS: Final[Mapping[LeaseKind, tuple[str, type[TryLater]]]] = {
    LeaseKind.REQUESTS: ("rpm", RateLimited),
    LeaseKind.TOKENS: ("tpm", RateLimited),
    LeaseKind.BUDGET: ("token_budget", BudgetExhausted),
    LeaseKind.MONEY: ("money_budget", BudgetExhausted),
    LeaseKind.SEQUENCES: ("max_concurrency", TooManyConcurrent),
}


def lease_refusal(order: LeaseOrder, answer: Granted) -> TryLater:
    """The error where the database had less of a lease than the request needs."""
    limit, error = _LIMITS[order.kind]
    used = order.cap - answer.left
    need, held, cap = (_shown(order.kind, amount) for amount in (order.need, used, order.cap))
    of_key = " of this key" if _is_key(order.tenant) else ""
    return error(
        f"The request needs {need} more of {limit}{of_key}, of which all servers together hold {held} "
        f"and {cap} are allowed. Wait and send it again.",
        limit=limit,
        asked=order.need,
        used=used,
        allowed=order.cap,
        retry_after_s=answer.retry_s,
    )


def lease_taken_by_others(short: LeaseShort, limits: Mapping[LeaseKind, int]) -> TryLater:
    """The error where more was leased each time, and other requests took it first."""
    kind, amount = next(iter(short.missing.items()))
    limit, error = _LIMITS[kind]
    return error(
        f"The request needs {_shown(kind, amount)} more of {limit}, and other requests of this "
        f"{'key' if _is_key(short.tenant) else 'tenant'}, on all servers together, took what became free. Wait and "
        "send it again.",
        limit=limit,
        asked=amount,
        used=limits[kind],
        allowed=limits[kind],
        retry_after_s=1.0,
    )


def _shown(kind: LeaseKind, amount: int) -> str:
    return nanos_text(amount) if kind is LeaseKind.MONEY else str(amount)


def _is_key(name: str) -> bool:
    """Whether this is a key's account: it begins with `server.admission.claims.KEY_PREFIX`."""
    return ":" in name
