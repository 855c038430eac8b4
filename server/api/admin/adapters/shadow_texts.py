"""/admin/v1/adapters/{tenant}/{name}/shadow/texts: the tenant's consent to keep texts of copies, and the texts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from adapters.models import Role
from adapters.registry import Registry
from adapters.registry.figures.shadow_texts import KEPT_PER_ADAPTER
from server.api.admin.permissions import AdminServices, Permissions, actor, admin_router, check_tenant
from server.errors import Forbidden
from server.request.context import Caller


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
    routes = admin_router("/adapters/{tenant}/{name}/shadow/texts")
    _add_consent(routes, services.registry, guard)

    @routes.get("")
    async def list_shadow_texts(
        tenant: str,
        name: str,
        limit: Annotated[int, Query(ge=1, le=KEPT_PER_ADAPTER)] = 20,
        caller: Caller = Depends(guard.manager),
    ) -> ShadowTextsInfo:
        """The texts that are kept, with the tenant's consent."""
        check_tenant(caller, tenant)
        return await _shown(services.registry, tenant, name, limit)

    return routes


def _add_consent(routes: APIRouter, registry: Registry, guard: Permissions) -> None:
    @routes.put("")
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
        await registry.shadow_texts.consent(tenant, name, by=actor(caller))
        return await _shown(registry, tenant, name, 0)

    @routes.delete("")
    async def remove_shadow_texts(
        tenant: str, name: str, caller: Caller = Depends(guard.manager)
    ) -> ShadowTextsInfo:
        """Keep no more texts, and remove those that are kept."""
        check_tenant(caller, tenant)
        await registry.shadow_texts.withdraw(tenant, name, by=actor(caller))
        return await _shown(registry, tenant, name, 0)


async def _shown(registry: Registry, tenant: str, name: str, limit: int) -> ShadowTextsInfo:
    await registry.adapters.get(tenant, name)  # Raises: UnknownAdapter
    consent = await registry.shadow_texts.consented(tenant, name)
    if consent is None:
        return ShadowTextsInfo(kept=False, by=None, at=None, data=[])
    pairs = await registry.shadow_texts.list(tenant, name, limit=limit)
    data = [ShadowPairInfo.model_validate(pair) for pair in pairs]
    return ShadowTextsInfo(kept=True, by=consent.by, at=consent.at, data=data)
