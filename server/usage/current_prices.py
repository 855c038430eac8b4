"""The price of a request's tokens at the moment, without a query for each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from adapters.billing.prices import Price, PriceList
from adapters.registry import Registry
from adapters.registry.cache import RegistryCache
from adapters.registry.database import utc_now


class CurrentPrices:
    """Reads the price list again when the registry has changed."""

    def __init__(self, registry: Registry, now: Callable[[], datetime] = utc_now) -> None:
        self._registry = registry
        self._now = now
        self._lists: RegistryCache[None, PriceList] = RegistryCache(
            registry.availability, self._read, lambda: registry.changes("price")
        )

    async def of(self, tenant: str, adapter: str) -> Price:
        """The price of a tenant's adapter ("": the base model) now. Raises: RegistryUnavailable."""
        return (await self._lists.get(None)).at(tenant, adapter, self._now())

    async def _read(self, _: None) -> PriceList:
        return await self._registry.prices.list()
