"""Weighted virtual token counters: the service that each tenant has received (VTC, Sheng et al., OSDI'24)."""

from __future__ import annotations

from collections.abc import Iterable

#: Prices of the paper, section 3.1: each generated token costs a forward pass of its own.
PROMPT_PRICE = 1
GENERATED_PRICE = 2


class VirtualTokenCounters:
    """Service per tenant divided by its weight; the tenant with the smallest counter is served next.

    While two tenants both wait, their counters differ by at most what one admission and the running requests'
    tokens can add (the paper's theorem 4.4). That is the fairness bound.
    """

    __slots__ = ("_last_emptied", "_service")

    def __init__(self) -> None:
        self._service: dict[str, float] = {}
        self._last_emptied: str | None = None

    def of(self, tenant: str) -> float:
        """The tenant's counter; 0 for a new one."""
        return self._service.get(tenant, 0.0)

    def charge(
        self, tenant: str, weight: float, *, prompt_tokens: float = 0, generated_tokens: float = 0
    ) -> None:
        """Add the price of tokens, divided by the tenant's weight."""
        price = PROMPT_PRICE * prompt_tokens + GENERATED_PRICE * generated_tokens
        self._service[tenant] = self._service.get(tenant, 0.0) + price / weight

    def lift(self, tenant: str, waiting: Iterable[str]) -> None:
        """Raise the counter of a tenant that was idle, so that idle time earns no credit.

        It rises to the smallest counter of the `waiting` tenants or, when none waits, to that of the tenant
        whose queue became empty last.
        """
        floor = min((self.of(other) for other in waiting if other != tenant), default=None)
        if floor is None:
            floor = self.of(self._last_emptied) if self._last_emptied is not None else 0.0
        self._service[tenant] = max(self.of(tenant), floor)

    @property
    def last_emptied(self) -> str | None:
        """The tenant whose queue became empty last."""
        return self._last_emptied

    def note_empty(self, tenant: str) -> None:
        """The tenant's queue has become empty."""
        self._last_emptied = tenant
