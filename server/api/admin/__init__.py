"""/admin/v1: tenants and keys for operators; adapters for operators and for their tenant's admins."""

from __future__ import annotations

from starlette.routing import BaseRoute

from server.api.admin.access.keys import router as key_routes
from server.api.admin.access.sessions import router as session_routes
from server.api.admin.adapters.blends import router as blend_routes
from server.api.admin.adapters.evaluations import router as evaluation_routes
from server.api.admin.adapters.shadow_texts import router as shadow_text_routes
from server.api.admin.adapters.shadows import router as shadow_routes
from server.api.admin.adapters.traffic import router as traffic_routes
from server.api.admin.adapters.uploads import router as upload_routes
from server.api.admin.adapters.versions import router as adapter_routes
from server.api.admin.audit import router as audit_routes
from server.api.admin.billing import routes as billing_routes
from server.api.admin.feedback import router as feedback_routes
from server.api.admin.live import router as live_routes
from server.api.admin.permissions import AdminServices, Permissions
from server.api.admin.records import router as record_routes
from server.api.admin.servers import cluster_router as cluster_routes
from server.api.admin.servers import router as server_routes
from server.api.admin.tenants import router as tenant_routes


def routes(services: AdminServices, guard: Permissions) -> list[BaseRoute]:
    """All admin routes."""
    makers = (
        tenant_routes,
        record_routes,
        key_routes,
        session_routes,
        upload_routes,
        adapter_routes,
        traffic_routes,
        blend_routes,
        evaluation_routes,
        shadow_routes,
        shadow_text_routes,
        audit_routes,
        live_routes,
        server_routes,
        cluster_routes,
        feedback_routes,
    )
    made = [route for make in makers for route in make(services, guard).routes]
    return [*made, *billing_routes(services, guard)]
