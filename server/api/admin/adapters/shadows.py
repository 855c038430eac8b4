"""/admin/v1/adapters/{tenant}/{name}/shadow: copies of requests on another version, and what was compared."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from adapters.models import Role
from adapters.promotion.intervals import Figure, figures_of
from adapters.registry.figures.shadow_texts import KEPT_PER_ADAPTER
from adapters.registry.figures.shadows import Shadow, shadow_of
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.errors import Forbidden
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


class ShadowPairInfo(BaseModel):
    """A request to which the shadow answered differently: the end of its prompt, the beginnings of both answers."""

    model_config = ConfigDict(from_attributes=True)

    version: int
    against: int
    at: datetime
    prompt: str
    served: str
    shadow: str


class ShadowTextsInfo(BaseModel):
    """Whether texts of differing answers are kept, who has consented, and the texts, the newest first."""

    kept: bool
    by: str | None
    at: datetime | None
    data: list[ShadowPairInfo]


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
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

    _add_texts(routes, services, guard)
    return routes


def _add_texts(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    texts = services.registry.shadow_texts

    async def shown(tenant: str, name: str, limit: int) -> ShadowTextsInfo:
        await services.registry.adapters.get(tenant, name)
        consent = await texts.consented(tenant, name)
        if consent is None:
            return ShadowTextsInfo(kept=False, by=None, at=None, data=[])
        found = [ShadowPairInfo.model_validate(pair) for pair in await texts.list(tenant, name, limit=limit)]
        return ShadowTextsInfo(kept=True, by=consent.by, at=consent.at, data=found)

    @routes.put("/texts")
    async def consent_to_shadow_texts(
        tenant: str, name: str, caller: Caller = Depends(guard.manager)
    ) -> ShadowTextsInfo:
        """Let the texts of requests be kept to which the shadow answers differently.

        Only the tenant's own admin can consent. At most 100 are kept, for 7 days, each cut to 4,000 characters.
        """
        check_tenant(caller, tenant)
        if caller.key.role is Role.OPERATOR:
            raise Forbidden(
                "Only the tenant consents to keeping texts: use a tenant_admin key of this tenant."
            )
        await texts.consent(tenant, name, by=actor(caller))
        return await shown(tenant, name, 0)

    @routes.get("/texts")
    async def list_shadow_texts(
        tenant: str,
        name: str,
        limit: Annotated[int, Query(ge=1, le=KEPT_PER_ADAPTER)] = 20,
        caller: Caller = Depends(guard.manager),
    ) -> ShadowTextsInfo:
        """The texts that are kept, with the tenant's consent."""
        check_tenant(caller, tenant)
        return await shown(tenant, name, limit)

    @routes.delete("/texts")
    async def remove_shadow_texts(
        tenant: str, name: str, caller: Caller = Depends(guard.manager)
    ) -> ShadowTextsInfo:
        """Keep no more texts, and remove those that are kept."""
        check_tenant(caller, tenant)
        await texts.withdraw(tenant, name, by=actor(caller))
        return await shown(tenant, name, 0)
