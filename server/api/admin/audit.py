"""/admin/v1/audit and /admin/v1/reconcile: who changed what, and whether the engine agrees. Operators only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from adapters.models import AuditEntry
from adapters.residency import Drift
from server.api.admin.models import Listing
from server.api.admin.permissions import Permissions, Service
from server.request.context import Caller


def router(service: Service, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/audit")
    async def audit(
        subject: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Caller = Depends(guard.operator),
    ) -> Listing[AuditEntry]:
        """The newest changes; `subject` is a model, a version of it, a tenant or a key."""
        return Listing(data=await service.registry.audit.list(subject=subject, limit=limit))

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> Drift:
        """Compare with the engine now instead of within 15 s; answers with what differed and was mended."""
        return await service.lifecycle.reconcile()

    return routes
