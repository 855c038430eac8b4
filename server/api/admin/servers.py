"""/admin/v1/servers: the servers that share the registry, for operators."""

from __future__ import annotations

from dataclasses import asdict, replace

from fastapi import APIRouter, Depends

from server.api.admin.models import Listing, ServerInfo
from server.api.admin.permissions import AdminServices, Permissions, admin_router
from server.engine.supervisor import State
from server.request.context import Caller


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route /admin/v1/servers, which lists the servers."""
    routes = admin_router("/servers")

    @routes.get("")
    async def servers(caller: Caller = Depends(guard.operator)) -> Listing[ServerInfo]:
        """The servers that share the registry and live, by id, with the url where each listens."""
        membership = services.registry.membership
        own = replace(membership.own, serves=services.readiness.state is State.READY)
        live = [own if server.id == own.id else server for server in await membership.live()]
        return Listing(data=[ServerInfo(**asdict(server)) for server in live])

    return routes
