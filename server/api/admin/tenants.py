"""/admin/v1/tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from adapters.errors import BadValue
from adapters.models import Tenant
from sampling.defaults import Layer
from sampling.limits import Limits
from server.api.admin.models import Listing
from server.api.admin.permissions import Permissions, Service, Wire, actor
from server.fairness.policy import Policy, check_guarantees
from server.request.context import Caller


class TenantBody(Wire):
    """A new tenant; what is left out has its default, and limits their absence."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


def router(service: Service, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    tenants = service.registry.tenants

    @routes.get("/tenants")
    async def list_tenants(caller: Caller = Depends(guard.operator)) -> Listing[Tenant]:
        """All tenants."""
        return Listing(data=await tenants.list())

    @routes.post("/tenants", status_code=201)
    async def add_tenant(body: TenantBody, caller: Caller = Depends(guard.operator)) -> Tenant:
        """Add a tenant."""
        tenant = _with(Tenant(body.name), body.settings)
        return await tenants.add(tenant, by=actor(caller), check=check_shares)

    @routes.get("/tenants/{name}")
    async def get_tenant(name: str, caller: Caller = Depends(guard.operator)) -> Tenant:
        """One tenant."""
        return await tenants.get(name)

    @routes.patch("/tenants/{name}")
    async def set_tenant(
        name: str, changes: dict[str, Any], caller: Caller = Depends(guard.operator)
    ) -> Tenant:
        """Change some settings; null lifts a limit. It takes effect within half a second."""
        _with(await tenants.get(name), changes)  # raises for what no tenant could be
        return await tenants.set(name, changes, by=actor(caller), check=check_shares)

    @routes.delete("/tenants/{name}", status_code=204)
    async def remove_tenant(name: str, caller: Caller = Depends(guard.operator)) -> None:
        """Remove a tenant and its keys; its adapters must be gone."""
        await tenants.remove(name, by=actor(caller))

    return routes


def _with(tenant: Tenant, settings: dict[str, Any]) -> Tenant:
    for name in settings:
        if name in ("name", "created_at") or name not in Tenant.__dataclass_fields__:
            raise BadValue(f"a tenant has no setting {name!r}")
    changed = replace(tenant, **settings)
    _check_decoding(changed)
    return changed


def _check_decoding(tenant: Tenant) -> None:
    """Refuse here what would make every request of the tenant fail. Raises: BadValue, ConfigurationError."""
    for name in ("sampling_defaults", "limits"):
        if not isinstance(getattr(tenant, name), Mapping):
            raise BadValue(f"{name} must be an object")
    Layer("tenant", tenant.sampling_defaults)
    for name in tenant.limits:
        if name not in Limits.__dataclass_fields__:
            raise BadValue(f"there is no limit {name!r}; limits: {', '.join(Limits.__dataclass_fields__)}")
    Limits(**tenant.limits)


def check_shares(tenants: Sequence[Tenant]) -> None:
    """Guarantees that no engine could keep together are refused. Raises: GuaranteesTooLarge, InvalidPolicy."""
    check_guarantees({tenant.name: Policy.of(tenant) for tenant in tenants})
