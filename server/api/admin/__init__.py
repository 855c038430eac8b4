"""/admin/v1: tenants and keys for operators; adapters for operators and for their tenant's admins."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.admin import adapters, keys, tenants
from server.api.admin.guard import Guard, Service


def router(service: Service) -> APIRouter:
    """All admin routes."""
    guard = Guard(service)
    routes = APIRouter(prefix="/admin/v1", tags=["admin"])
    routes.include_router(tenants.router(service, guard))
    routes.include_router(keys.router(service, guard))
    routes.include_router(adapters.router(service, guard))
    return routes
