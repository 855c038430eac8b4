"""/admin/v1/prices: operators set them; a tenant's admin sees those that hold for its tenant."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from adapters.billing.money import from_micros, price_micros
from adapters.billing.prices import Price, PriceEntry
from adapters.errors import BadValue
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, seen_tenant
from server.request.context import Caller


class PriceBody(Wire):
    """A price per million tokens from the start of an hour on; without `valid_from` from the next hour on."""

    tenant: str = ""
    """Empty: everybody without a price of their own."""
    adapter: str = ""
    """Empty: all models of the tenant without a price of their own."""
    prompt: Decimal | float | str | None = None
    cached: Decimal | float | str | None = None
    """Of prompt tokens that the prefix cache has. Default: as `prompt`."""
    generated: Decimal | float | str | None = None
    ends: bool = False
    """The tenant or adapter has no price of its own any more."""
    valid_from: datetime | None = None
    backdate: bool = False
    """Allow a `valid_from` in the past, which changes the cost of usage that is counted already."""


class PriceInfo(BaseModel):
    """One line of the price list; amounts per million tokens, null where the price of this scope ends."""

    tenant: str
    adapter: str
    valid_from: datetime
    prompt: Decimal | None
    cached: Decimal | None
    generated: Decimal | None
    currency: str


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of prices: /admin/v1/prices."""
    routes = admin_router()
    prices, currency = services.registry.prices, services.settings.currency

    @routes.get("/prices")
    async def list_prices(
        tenant: str | None = None, caller: Caller = Depends(guard.manager)
    ) -> Listing[PriceInfo]:
        """The price list: past, present and future; for a tenant its own prices and those for everybody."""
        seen = seen_tenant(caller, tenant)
        entries = (await prices.list()).entries
        return Listing(
            data=[
                PriceInfo(**price_row(e, currency)) for e in entries if seen is None or e.tenant in ("", seen)
            ]
        )

    @routes.post("/prices", status_code=201)
    async def set_price(body: PriceBody, caller: Caller = Depends(guard.operator)) -> PriceInfo:
        """Set a price; one for the same hour is replaced."""
        price = read_price(body.prompt, body.cached, body.generated, ends=body.ends)
        when: Any = {"valid_from": body.valid_from, "backdate": body.backdate}
        entry = await prices.set(body.tenant, body.adapter, price, by=actor(caller), **when)
        return PriceInfo(**price_row(entry, currency))

    @routes.delete("/prices", status_code=204)
    async def remove_price(
        valid_from: Annotated[datetime, Query()],
        tenant: str = "",
        adapter: str = "",
        caller: Caller = Depends(guard.operator),
    ) -> None:
        """Remove a price that does not hold yet."""
        if valid_from.tzinfo is None:
            raise BadValue("valid_from needs a time zone, for example 2026-07-01T00:00:00+00:00.")
        await prices.remove(tenant, adapter, valid_from, by=actor(caller))

    return routes


def read_price(prompt: Any, cached: Any, generated: Any, *, ends: bool) -> Price | None:
    """The price from amounts per million tokens; None where it ends. Raises: BadValue."""
    if ends:
        if any(amount is not None for amount in (prompt, cached, generated)):
            raise BadValue("A price that ends has no amounts; leave them out, or leave out `ends`.")
        return None
    if prompt is None or generated is None:
        raise BadValue(
            "A price needs amounts for prompt and generated tokens, per million tokens; 0 is free."
        )
    return Price(
        price_micros("prompt", prompt),
        price_micros("cached", prompt if cached is None else cached),
        price_micros("generated", generated),
    )


def price_row(entry: PriceEntry, currency: str) -> dict[str, Any]:
    """A line of the price list as API and command line show it."""
    price = entry.price
    amounts = {
        name: from_micros(getattr(price, f"{name}_micros")) if price else None
        for name in ("prompt", "cached", "generated")
    }
    head = {"tenant": entry.tenant, "adapter": entry.adapter, "valid_from": entry.valid_from}
    return head | amounts | {"currency": currency}
