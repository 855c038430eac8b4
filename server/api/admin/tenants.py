"""/admin/v1/tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from adapters.errors import BadValue
from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from sampling.defaults import Layer
from sampling.limits import Limits
from server.api.admin.models import Listing, TenantInfo
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.api.admin.records import check_records
from server.api.admin.sliced_listing import json_listing, record_dump
from server.fairness.shares import check_guarantees
from server.request.context import Caller


class TenantBody(Wire):
    """A new tenant; settings that are left out have their defaults."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of tenants: /admin/v1/tenants."""
    routes = admin_router()
    tenants = services.registry.tenants

    dump = record_dump(TenantInfo)

    @routes.get("/tenants", response_model=Listing[TenantInfo])
    async def list_tenants(caller: Caller = Depends(guard.operator)) -> Response:
        """All tenants."""
        return json_listing(map(_info, await tenants.list()), dump)

    @routes.post("/tenants", status_code=201)
    async def add_tenant(body: TenantBody, caller: Caller = Depends(guard.operator)) -> TenantInfo:
        """Add a tenant."""
        tenant = Tenant(body.name, TenantSettings.parse(body.settings))
        await _check(services, tenant.settings, body.settings)
        return _info(await tenants.add(tenant, by=actor(caller), check=check_guarantees))

    @routes.get("/tenants/{name}")
    async def get_tenant(name: str, caller: Caller = Depends(guard.manager)) -> TenantInfo:
        """One tenant; its own for a tenant's admin."""
        check_tenant(caller, name)
        return _info(await tenants.get(name))

    @routes.patch("/tenants/{name}")
    async def set_tenant(
        name: str, changes: dict[str, Any], caller: Caller = Depends(guard.operator)
    ) -> TenantInfo:
        """Change some settings; null removes a limit. The change takes effect within half a second."""
        await _check(services, (await tenants.get(name)).settings.changed(changes), changes)
        return _info(await tenants.set(name, changes, by=actor(caller), check=check_guarantees))

    @routes.delete("/tenants/{name}", status_code=204)
    async def remove_tenant(name: str, caller: Caller = Depends(guard.operator)) -> None:
        """Remove a tenant and its keys; its adapters must be gone."""
        await tenants.remove(name, by=actor(caller))

    return routes


def _info(tenant: Tenant) -> TenantInfo:
    return TenantInfo(**tenant.as_dict())


async def _check(services: AdminServices, settings: TenantSettings, changes: Mapping[str, Any]) -> None:
    """Refuse settings that this server cannot follow. Raises: BadValue, ConfigurationError."""
    _check_decoding(settings)
    if changes.get("records") is not None:
        await check_records(services.settings, settings.records)


def _check_decoding(settings: TenantSettings) -> None:
    """Refuse decoding defaults and limits that would fail every request. Raises: BadValue, ConfigurationError."""
    Layer("tenant", settings.sampling_defaults)
    for name in settings.limits:
        if name not in Limits.__dataclass_fields__:
            raise BadValue(
                f"There is no limit {name!r}; use one of {', '.join(Limits.__dataclass_fields__)}."
            )
    Limits(**settings.limits)
