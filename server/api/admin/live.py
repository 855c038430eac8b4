"""/admin/v1/whoami, /live, /errors and /options, for the console."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Depends

from adapters.models import Role, Tenant
from sampling.endpoints import Endpoint
from sampling.options import OPTIONS, Option
from server.api.admin.models import (
    KeySummary,
    Listing,
    OperatorLive,
    OptionInfo,
    TenantLive,
    TenantLoad,
    WhoamiInfo,
)
from server.api.admin.permissions import Permissions, Service, seen_tenant
from server.observability.scheduler_stats import operator_row, tenant_rows
from server.request.context import Caller
from server.usage.recent_requests import Failure


def router(service: Service, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/whoami")
    async def whoami(caller: Caller = Depends(guard.manager)) -> WhoamiInfo:
        """The role and the tenant of the key that asks."""
        return WhoamiInfo(
            role=caller.key.role,
            tenant=caller.tenant_name or None,
            key=KeySummary.model_validate(caller.key, from_attributes=True),
            base_model=service.settings.base_model_name,
            keeps_feedback_messages=service.settings.keep_feedback_messages,
        )

    @routes.get("/live")
    async def live(caller: Caller = Depends(guard.manager)) -> OperatorLive | TenantLive:
        """Running and waiting sequences, and the use of the KV cache, per tenant.

        A tenant's admin sees its own row and its own adapters; only an operator sees the engine's capacity.
        """
        report = await service.scheduler_stats.latest()
        capacity = service.admission.capacity
        residency = service.residency.snapshot()
        shown = tenant_rows(report, await _tenants(service, caller), capacity)
        if caller.key.role is not Role.OPERATOR:
            own = [s for s in residency.slots if s.engine_name.startswith(f"{caller.tenant_name}/")]
            return TenantLive(state=service.readiness.state, adapters_loaded=len(own), tenants=_loads(shown))
        return OperatorLive(
            state=service.readiness.state,
            adapters_loaded=len(residency.slots),
            adapters_capacity=residency.capacity,
            capacity=capacity,
            tenants=_loads([*shown, operator_row(report, capacity)]),
        )

    @routes.get("/errors")
    async def errors(tenant: str | None = None, caller: Caller = Depends(guard.manager)) -> Listing[Failure]:
        """The last failed requests of each tenant, newest first; without texts, which could hold prompts."""
        return Listing(data=service.failures.list(seen_tenant(caller, tenant)))

    @routes.get("/options")
    async def options(caller: Caller = Depends(guard.manager)) -> Listing[OptionInfo]:
        """The decoding options of a chat request."""
        return Listing(data=[_option(option) for option in OPTIONS if Endpoint.CHAT in option.endpoints])

    return routes


async def _tenants(service: Service, caller: Caller) -> list[Tenant]:
    tenants = service.registry.tenants
    if caller.key.role is Role.OPERATOR:
        return list(await tenants.list())
    return [await tenants.get(caller.tenant_name)]


def _loads(rows: Iterable[Mapping[str, Any]]) -> list[TenantLoad]:
    """The rows of `server.observability.scheduler_stats`, typed."""
    return [TenantLoad.model_validate(row) for row in rows]


def _option(option: Option) -> OptionInfo:
    return OptionInfo(
        name=option.name,
        type=option.kind.type_name,
        range=option.kind.range_text,
        default=option.default,
        source=option.source,
        meaning=option.meaning,
    )
