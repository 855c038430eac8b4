"""/admin/v1/adapters/{tenant}/{name}/shadow: copies of requests on another version, and what was compared."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from adapters.promotion.intervals import Figure, figures_of
from adapters.registry.figures.shadows import Shadow, shadow_of
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.request.context import Caller


class ShadowBody(Wire):
    """The version that gets copies of this share of the adapter's requests."""

    version: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(gt=0, le=1)]


class ShadowInfo(BaseModel):
    """The shadow version of an adapter, null where it has none, and its figures by the version that served.

    Of each metric: the means of both versions over `count` requests, and the difference (shadow less served) with
    bounds that hold with 95 % confidence.
    """

    version: int | None
    share: float | None
    figures: dict[int, dict[str, Figure]]


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of shadow traffic: /admin/v1/adapters/{tenant}/{name}/shadow."""
    routes = admin_router("/adapters/{tenant}/{name}/shadow")
    shadows = services.registry.shadows

    async def shown(tenant: str, name: str) -> ShadowInfo:
        shadow = shadow_of((await services.registry.adapters.get(tenant, name)).adapter.shadow)
        if shadow is None:
            return ShadowInfo(version=None, share=None, figures={})
        found = await shadows.sums(tenant, name, shadow.version)
        figures = {against: figures_of(metrics) for against, metrics in found.items()}
        return ShadowInfo(version=shadow.version, share=shadow.share, figures=figures)

    @routes.put("")
    async def begin_shadow(
        tenant: str, name: str, body: ShadowBody, caller: Caller = Depends(guard.manager)
    ) -> ShadowInfo:
        """Send copies of requests to a version, in the background; nobody sees its answers, only figures are kept.

        Its tokens are counted under the caller's name, while half of the caller's token budget is left.
        """
        check_tenant(caller, tenant)
        shadow = Shadow(body.version, body.share, caller.tenant_name)
        await shadows.set(tenant, name, shadow, by=actor(caller))
        return await shown(tenant, name)

    @routes.get("")
    async def show_shadow(tenant: str, name: str, caller: Caller = Depends(guard.manager)) -> ShadowInfo:
        """The shadow version and its figures."""
        check_tenant(caller, tenant)
        return await shown(tenant, name)

    @routes.delete("")
    async def end_shadow(tenant: str, name: str, caller: Caller = Depends(guard.manager)) -> ShadowInfo:
        """Send no more copies."""
        check_tenant(caller, tenant)
        await shadows.set(tenant, name, None, by=actor(caller))
        return await shown(tenant, name)

    return routes
