"""/admin/v1/audit and /admin/v1/reconcile, for operators: the log of changes, and a comparison with the engine."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, ConfigDict, Field

from adapters.residency import Drift
from server.api.admin.models import AuditInfo, Listing
from server.api.admin.permissions import AdminServices, Permissions, Wire, admin_router
from server.api.admin.usage import in_utc
from server.request.context import Caller


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None else in_utc(moment)


class AuditFilters(Wire):
    """Which changes; `action` may be how it begins, and `search` looks in actor, action and subject."""

    model_config = ConfigDict(populate_by_name=True)

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    search: Annotated[str | None, Field(max_length=200)] = None
    since: Annotated[datetime | None, Field(alias="from"), AfterValidator(_in_utc)] = None
    until: Annotated[datetime | None, Field(alias="to"), AfterValidator(_in_utc)] = None
    before: Annotated[int | None, Field(ge=1)] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router()

    @routes.get("/audit")
    async def audit(
        filters: Annotated[AuditFilters, Query()], caller: Caller = Depends(guard.operator)
    ) -> Listing[AuditInfo]:
        """The newest changes that match all filters; `before` continues after the last id of a page."""
        entries = await services.registry.audit.list(**filters.model_dump())
        return Listing(data=[AuditInfo.model_validate(entry) for entry in entries])

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> Drift:
        """Reconcile with the engine now instead of within 15 s; returns the differences, which are repaired."""
        return await services.lifecycle.reconcile()

    return routes
