"""/admin/v1: tenants and keys for operators; adapters for operators and for their tenant's admins."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.admin.adapters import router as adapter_routes
from server.api.admin.audit import router as audit_routes
from server.api.admin.blends import router as blend_routes
from server.api.admin.feedback import router as feedback_routes
from server.api.admin.keys import router as key_routes
from server.api.admin.live import router as live_routes
from server.api.admin.permissions import AdminServices, Permissions
from server.api.admin.servers import router as server_routes
from server.api.admin.tenants import router as tenant_routes
from server.api.admin.uploads import router as upload_routes
from server.api.admin.usage import router as usage_routes


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """All admin routes."""
    routes = APIRouter(prefix="/admin/v1", tags=["admin"])
    routes.include_router(tenant_routes(services, guard))
    routes.include_router(key_routes(services, guard))
    routes.include_router(upload_routes(services, guard))
    routes.include_router(adapter_routes(services, guard))
    routes.include_router(blend_routes(services, guard))
    routes.include_router(usage_routes(services, guard))
    routes.include_router(audit_routes(services, guard))
    routes.include_router(live_routes(services, guard))
    routes.include_router(server_routes(services, guard))
    routes.include_router(feedback_routes(services, guard))
    return routes
