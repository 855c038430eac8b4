"""/admin/v1/audit: the log of changes, for a tenant's admin of its own; and /admin/v1/reconcile, for operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from adapters.models import AuditEntry
from adapters.residency import Drift
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.request.context import Caller


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router()

    @routes.get("/audit")
    async def audit(
        subject: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Caller = Depends(guard.manager),
    ) -> Listing[AuditEntry]:
        """The newest changes; `subject` is a model, a version of it, a tenant or a key.

        A tenant's admin sees the changes of its tenant, its adapters and its keys, but not with which operator's key.
        """
        tenant = seen_tenant(caller, None)
        entries = await services.registry.audit.list(subject=subject, tenant=tenant, limit=limit)
        return Listing(data=entries if tenant is None else [_as_seen_by(tenant, entry) for entry in entries])

    @routes.post("/reconcile")
    async def reconcile(caller: Caller = Depends(guard.operator)) -> Drift:
        """Reconcile with the engine now instead of within 15 s; returns the differences, which are repaired."""
        return await services.lifecycle.reconcile()

    return routes


def _as_seen_by(tenant: str, entry: AuditEntry) -> AuditEntry:
    """The entry without what is the operator's own: the id of its key, and its name at a shell."""
    if entry.actor == tenant:
        return entry
    return replace(
        entry, key_id=None, actor="operator" if entry.key_id or ":" in entry.actor else entry.actor
    )
