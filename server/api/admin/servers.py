"""/admin/v1/servers and /admin/v1/cluster: the servers that share the registry, and those behind a front.

A front puts the answers of all its servers on /admin/v1/cluster together.
"""

from __future__ import annotations

import signal
from dataclasses import asdict, replace

from fastapi import APIRouter, Depends

from adapters.errors import NotFound
from server.api.admin.models import ClusterServer, DrainedServer, Listing, ServerInfo
from server.api.admin.permissions import AdminServices, Permissions, actor, admin_router
from server.engine.supervisor import State
from server.errors import InvalidRequest
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


def cluster_router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes /admin/v1/cluster and /admin/v1/cluster/{id}/drain."""
    routes = admin_router("/cluster")
    was_signalled = False

    @routes.get("")
    async def cluster(caller: Caller = Depends(guard.operator)) -> Listing[ClusterServer]:
        """The servers behind this front, with their load and what they hold; without a front, this server alone."""
        own, report = services.registry.membership.own, await services.reporter.report()
        server = ClusterServer(
            id=own.id,
            server=own.id,
            url=own.url,
            version=own.version,
            state="draining" if services.readiness.leaving else services.readiness.state,
            in_flight=report.in_flight,
            waiting=report.waiting,
            kv_use=round(report.kv_use, 4),
            slots=report.slots,
            computing=sorted(report.computing),
            held=sorted(report.held),
        )
        return Listing(data=[server])

    @routes.post("/{server_id}/drain", status_code=202)
    async def drain(server_id: str, caller: Caller = Depends(guard.operator)) -> DrainedServer:
        """Let a server behind a front finish its requests and end; another one is started in its place."""
        nonlocal was_signalled
        own = services.registry.membership.own.id
        _check_drain(services, server_id)
        if not (was_signalled or services.readiness.leaving):
            await services.registry.audit.note(actor(caller), "server.drain", own, {})
        # A second signal would end the running requests, too; another call may have come while this one was noted.
        if not (was_signalled or services.readiness.leaving):
            was_signalled = True
            signal.raise_signal(signal.SIGTERM)
        return DrainedServer(id=own, in_flight=services.reporter.in_flight)

    return routes


def _check_drain(services: AdminServices, server_id: str) -> None:
    """Raises: NotFound: it is another server; InvalidRequest: nothing would replace this one."""
    if server_id != services.registry.membership.own.id:
        raise NotFound(f"No server has the id {server_id!r}; `loragate cluster status` lists them.")
    if not services.settings.replica_token:
        raise InvalidRequest(
            "This server is none of `loragate serve --replicas` or `loragate deploy`: nothing would start another "
            "one in its place. Stop its process (SIGTERM) to drain it."
        )
