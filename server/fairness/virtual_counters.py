"""Weighted virtual token counters: how much service each tenant has had (VTC, Sheng et al., OSDI'24)."""

from __future__ import annotations

from collections.abc import Iterable

#: Prices of the paper, section 3.1: a generated token costs a forward pass of its own.
PROMPT_PRICE = 1
GENERATED_PRICE = 2


class ServiceCounters:
    """Service per tenant divided by its weight; the tenant with the smallest counter goes next.

    While two tenants both wait, their counters differ by at most what one admission and the tokens under way
    can add (the paper's theorem 4.4); that is the fairness bound.
    """

    __slots__ = ("_last_left", "_service")

    def __init__(self) -> None:
        self._service: dict[str, float] = {}
        self._last_left: str | None = None

    def of(self, tenant: str) -> float:
        """The tenant's counter; 0 for a new one."""
        return self._service.get(tenant, 0.0)

    def charge(
        self, tenant: str, weight: float, *, prompt_tokens: float = 0, generated_tokens: float = 0
    ) -> None:
        """Add service."""
        price = PROMPT_PRICE * prompt_tokens + GENERATED_PRICE * generated_tokens
        self._service[tenant] = self.of(tenant) + price / weight

    def lift(self, tenant: str, waiting: Iterable[str]) -> None:
        """Call when `tenant` comes back from idle, with the other tenants that wait.

        Idle time earns no credit: the counter rises to the least one that waits, or, when nobody does, to
        that of the tenant whose queue ran empty last.
        """
        floor = min((self.of(other) for other in waiting if other != tenant), default=None)
        if floor is None:
            floor = self.of(self._last_left) if self._last_left is not None else 0.0
        self._service[tenant] = max(self.of(tenant), floor)

    def left(self, tenant: str) -> None:
        """Call when nothing of `tenant` waits any more."""
        self._last_left = tenant
