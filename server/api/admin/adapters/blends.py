"""/admin/v1/adapters/{tenant}/{name}/blend: versions that combine other versions, without training."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from adapters.lifecycle.blends.blending import BlendPart
from sampling.defaults import Layer
from server.api.admin.models import VersionInfo
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.api.admin.views import version_info
from server.request.context import Caller


class PartBody(Wire):
    """An adapter of the same tenant, and what its update is multiplied by; no version: the one that it serves."""

    adapter: str
    version: Annotated[int, Field(ge=1)] | None = None
    scale: float = 1.0


class BlendBody(Wire):
    """The adapters that a new version combines; with `reduce_rank` it is the best approximation of that rank."""

    of: list[PartBody]
    reduce_rank: int | None = None
    promote: bool = True
    sampling_defaults: dict[str, Any] = Field(default_factory=dict)


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route of blends: /admin/v1/adapters/{tenant}/{name}/blend."""
    routes = admin_router("/adapters")

    @routes.post("/{tenant}/{name}/blend", status_code=201)
    async def blend(
        tenant: str, name: str, body: BlendBody, caller: Caller = Depends(guard.manager)
    ) -> VersionInfo:
        """Add a version that combines versions of the same tenant, each with a scale. It serves unless promote=false.

        Without `reduce_rank` the combination is exact, and its rank is the sum of theirs. The recipe is stored with
        the version.
        """
        check_tenant(caller, tenant)
        Layer("adapter", body.sampling_defaults)  # raises for a default that no request may have
        await services.readiness.wait_ready(services.settings.adapter_wait_s)
        version = await services.lifecycle.blending.blend(
            tenant,
            name,
            [BlendPart(part.adapter, part.version, part.scale) for part in body.of],
            by=actor(caller),
            reduce_rank=body.reduce_rank,
            sampling_defaults=body.sampling_defaults,
        )
        if body.promote:
            await services.lifecycle.promote(tenant, name, version.number, by=actor(caller))
        return version_info(services, version)

    return routes
