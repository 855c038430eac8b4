"""/admin/v1/audit and /admin/v1/reconcile: who changed what, and whether the engine agrees. Operators only."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

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
    ) -> dict[str, Any]:
        """The newest changes; `subject` is a model, a version of it, a tenant or a key."""
        entries = await service.registry.audit.list(subject=subject, limit=limit)
        return {"data": [asdict(entry) for entry in entries]}

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> dict[str, Any]:
        """Compare with the engine now instead of within 15 s; answers with what differed and was mended."""
        return asdict(await service.lifecycle.reconcile())

    return routes
