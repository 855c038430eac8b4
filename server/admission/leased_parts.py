"""The parts of a tenant's or key's limits that this server holds, where several servers share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from adapters.billing.money import to_nanos
from adapters.registry.replicas.leases import LeaseKind
from adapters.tenant_settings import TenantSettings, UsageLimits
from server.admission.errors import AdmissionError

_MINUTE, _NONE = "minute", "none"


class LeaseShort(AdmissionError):
    """The parts that this server holds do not suffice; more may be had (`server.admission.leases`).

    Attributes:
        tenant: whose limits: a tenant's name, or a key's account (`server.admission.claims`).
        missing: how much of each kind is missing.
    """

    def __init__(self, tenant: str, missing: Mapping[LeaseKind, int]) -> None:
        kind, amount = next(iter(missing.items()))
        super().__init__(f"{amount} {kind} are missing.", limit=kind, asked=amount, allowed=0)
        self.tenant = tenant
        self.missing = missing


@dataclass(slots=True)
class LeasedParts:
    """What is held of one tenant's or key's limits. An amount is held, or used and not reported yet, or neither."""

    clock: Callable[[], float] = time.monotonic
    settings: UsageLimits = field(default_factory=TenantSettings)
    """Those of the last request."""
    held: dict[LeaseKind, int] = field(default_factory=dict)
    used: dict[LeaseKind, int] = field(default_factory=dict)
    left: dict[LeaseKind, int] = field(default_factory=dict)
    """Of the limit, held by no server and not used, when the database was asked last."""
    used_at: float = float("-inf")

    def use(self, kind: LeaseKind, amount: int) -> None:
        """Use some of what is held; where there is no limit, nothing is held and nothing counted."""
        self.used_at = self.clock()
        if amount > 0 and kind in limits_by_kind(self.settings):
            self.held[kind] = max(0, self.held.get(kind, 0) - amount)
            self.used[kind] = self.used.get(kind, 0) + amount

    def missing(self, wanted: Mapping[LeaseKind, int]) -> dict[LeaseKind, int]:
        """How much more of each kind would have to be held for this in all, for the limits that are set."""
        limited = limits_by_kind(self.settings)
        short = {kind: amount - self.held.get(kind, 0) for kind, amount in wanted.items() if kind in limited}
        return {kind: amount for kind, amount in short.items() if amount > 0}


def limits_by_kind(settings: UsageLimits) -> dict[LeaseKind, int]:
    """The limits that are set, each by the kind of its lease."""
    limits = {
        LeaseKind.REQUESTS: settings.rpm,
        LeaseKind.TOKENS: settings.tpm,
        LeaseKind.BUDGET: settings.token_budget,
        LeaseKind.MONEY: None if settings.money_budget is None else to_nanos(settings.money_budget),
        LeaseKind.SEQUENCES: settings.max_concurrency,
    }
    return {kind: limit for kind, limit in limits.items() if limit is not None}


def limit_period(kind: LeaseKind, settings: UsageLimits) -> str:
    """The period of a leased limit, as `LeaseOrder.period`."""
    if kind in (LeaseKind.BUDGET, LeaseKind.MONEY):
        return settings.budget_period.value
    return _NONE if kind is LeaseKind.SEQUENCES else _MINUTE
