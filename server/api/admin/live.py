"""/admin/v1/whoami, /state, /live, /options, /errors, /requests and /history, for the console."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Depends

from adapters.models import Role, Tenant
from adapters.registry.replicas.failures import Failure
from sampling.endpoints import Endpoint
from sampling.options import OPTIONS, Option
from server.api.admin.all_servers import find_request, history_of
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.api.live_models import (
    HistoryInfo,
    KeySummary,
    OperatorLive,
    OptionInfo,
    RequestInfo,
    StateInfo,
    TenantLive,
    TenantLoad,
    WhoamiInfo,
)
from server.errors import InvalidRequest
from server.observability.history import Span
from server.observability.scheduler_stats import operator_row, tenant_rows
from server.request.context import Caller

#: The demo's model is so small that it answers sensibly at temperature 0 only.
_DEMO_PRESET = "factual"


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of the live view: /admin/v1/live, /state, /whoami, /options, /errors and /requests."""
    routes = admin_router()
    _add_server(routes, services, guard)
    _add_requests(routes, services, guard)
    return routes


def _add_server(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    @routes.get("/whoami")
    async def whoami(caller: Caller = Depends(guard.manager)) -> WhoamiInfo:
        """The role and the tenant of the caller's key."""
        return WhoamiInfo(
            role=caller.key.role,
            tenant=caller.tenant_name or None,
            key=KeySummary.model_validate(caller.key, from_attributes=True),
            person=caller.key.note if caller.person else None,
            read_only=caller.read_only,
            base_model=services.settings.base_model_name,
            keeps_feedback_messages=services.settings.keep_feedback_messages,
            playground_preset=_DEMO_PRESET if services.settings.demo else "",
        )

    @routes.get("/state")
    async def state(caller: Caller = Depends(guard.manager)) -> StateInfo:
        """Whether requests are answered now. Asks neither the engine nor the database, so that it answers at once."""
        readiness = services.readiness
        return StateInfo(
            state=readiness.state,
            stalled=readiness.stall is not None,
            silent_s=readiness.engine_silent_s,
            warning=readiness.registry_warning,
        )

    @routes.get("/live")
    async def live(caller: Caller = Depends(guard.manager)) -> OperatorLive | TenantLive:
        """Running and waiting sequences, and the use of the KV cache, per tenant.

        A tenant's admin sees its own row and its own adapters; only an operator sees the engine's capacity.
        """
        return await _live(services, caller)

    @routes.get("/options")
    async def options(caller: Caller = Depends(guard.manager)) -> Listing[OptionInfo]:
        """The sampling options of a chat request."""
        return Listing(data=[_option(option) for option in OPTIONS if Endpoint.CHAT in option.endpoints])


def _add_requests(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    @routes.get("/errors")
    async def errors(tenant: str | None = None, caller: Caller = Depends(guard.manager)) -> Listing[Failure]:
        """The last failed requests on all servers, newest first; without error texts, which could contain prompts."""
        return Listing(data=await services.failures.list(seen_tenant(caller, tenant)))

    @routes.get("/requests/{request_id}")
    async def request(request_id: str, caller: Caller = Depends(guard.manager)) -> RequestInfo:
        """One of the last requests of all servers, by its id or its answer's `id`; without any text of it."""
        return await find_request(services, request_id, seen_tenant(caller, None))

    @routes.get("/history")
    async def history(
        span: Span = "hour",
        tenant: str | None = None,
        adapter: str | None = None,
        caller: Caller = Depends(guard.manager),
    ) -> HistoryInfo:
        """The last hour by the minute, or the last day by the quarter of an hour, of all servers.

        Of all, of a tenant ("" for operators), or of its adapter ("" for the base model).
        """
        tenant = seen_tenant(caller, tenant)
        if adapter is not None and tenant is None:
            raise InvalidRequest("An adapter has a history of its tenant only; name the tenant, too.")
        return await history_of(services, span, tenant, adapter)


async def _live(services: AdminServices, caller: Caller) -> OperatorLive | TenantLive:
    report = await services.scheduler_stats.latest()
    capacity = services.admission.capacity
    residency = services.residency.snapshot()
    shown = tenant_rows(report, await _tenants(services, caller), capacity)
    if caller.key.role is not Role.OPERATOR:
        own = [s for s in residency.slots if s.engine_name.startswith(f"{caller.tenant_name}/")]
        return TenantLive(state=services.readiness.state, adapters_loaded=len(own), tenants=_loads(shown))
    return OperatorLive(
        state=services.readiness.state,
        adapters_loaded=len(residency.slots),
        adapters_capacity=residency.capacity,
        capacity=capacity,
        tenants=_loads([*shown, operator_row(report, capacity)]),
    )


async def _tenants(services: AdminServices, caller: Caller) -> list[Tenant]:
    tenants = services.registry.tenants
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
