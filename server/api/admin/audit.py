"""/admin/v1/audit and /admin/v1/reconcile, for operators: the log of changes, and a comparison with the engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from adapters.models import AuditEntry
from adapters.residency import Drift
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, admin_router
from server.request.context import Caller


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router()

    @routes.get("/audit")
    async def audit(
        subject: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Caller = Depends(guard.operator),
    ) -> Listing[AuditEntry]:
        """The newest changes; `subject` is a model, a version of it, a tenant or a key."""
        return Listing(data=await services.registry.audit.list(subject=subject, limit=limit))

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> Drift:
        """Reconcile with the engine now instead of within 15 s; returns the differences, which are repaired."""
        return await services.lifecycle.reconcile()

    return routes
