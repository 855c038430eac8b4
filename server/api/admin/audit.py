"""/admin/v1/audit: the log of changes, for a tenant's admin of its own; and /admin/v1/reconcile, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, ConfigDict, Field

from adapters.residency import Drift
from server.api.admin.billing.usage import in_utc
from server.api.admin.models import AuditInfo, Listing
from server.api.admin.permissions import AdminServices, Permissions, Wire, admin_router, seen_tenant
from server.request.context import Caller


class AuditFilters(Wire):
    """Which changes; `action` may be how it begins, and `search` looks in actor, action and subject."""

    model_config = ConfigDict(populate_by_name=True)

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    search: Annotated[str | None, Field(max_length=200)] = None
    since: Annotated[datetime | None, Field(alias="from"), AfterValidator(in_utc)] = None
    until: Annotated[datetime | None, Field(alias="to"), AfterValidator(in_utc)] = None
    before: Annotated[int | None, Field(ge=1)] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes /admin/v1/audit and /admin/v1/reconcile."""
    routes = admin_router()

    @routes.get("/audit")
    async def audit(
        filters: Annotated[AuditFilters, Query()], caller: Caller = Depends(guard.manager)
    ) -> Listing[AuditInfo]:
        """The newest changes that match all filters; `before` continues after the last id of a page.

        A tenant's admin sees the changes of its tenant, its adapters and its keys, but not with which operator's key.
        """
        tenant = seen_tenant(caller, None)
        entries = await services.registry.audit.list(**filters.model_dump(), tenant=tenant)
        return Listing(data=[_as_seen_by(tenant, AuditInfo.model_validate(entry)) for entry in entries])

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> Drift:
        """Reconcile with the engine now instead of within 15 s; returns the differences, which are repaired."""
        return await services.lifecycle.reconcile()

    return routes


def _as_seen_by(tenant: str | None, entry: AuditInfo) -> AuditInfo:
    """For a tenant, without the operator's own: the id of its key. `Audit.list` has left out its name at a shell."""
    if tenant is None or entry.actor == tenant or entry.actor.endswith(f" ({tenant})"):
        return entry
    return entry.model_copy(update={"key_id": None})
