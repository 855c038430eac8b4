"""GET /internal/…: what the front of several servers, and the other servers, ask this one; see `server.cluster`."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException

from adapters.residency import Residency
from server.cluster.peers import HISTORY, REQUEST, Peers
from server.cluster.replica_views import PATH, ReplicaReport
from server.observability.history import History, Span
from server.observability.readiness import Readiness
from server.observability.router_series import names_in_use, names_loaded
from server.observability.scheduler_stats import SchedulerStats
from server.request.request_service import RequestService
from server.usage.request_log import RequestLog


class ReplicaReporter:
    """Makes this server's report.

    Args:
        base: the public name of the base model.
        slots: `--max-loras`.
        server: this server's id in the registry.
    """

    def __init__(
        self,
        residency: Residency,
        requests: RequestService,
        stats: SchedulerStats,
        readiness: Readiness,
        base: str,
        slots: int,
        server: str,
    ) -> None:
        self._residency = residency
        self._requests = requests
        self._stats = stats
        self._readiness = readiness
        self._base = base
        self._slots = slots
        self._server = server

    @property
    def in_flight(self) -> int:
        """Requests that run or wait here."""
        return self._requests.in_flight

    async def report(self) -> ReplicaReport:
        """The state now; the queue and the cache as of the scheduler's last report."""
        snapshot = self._residency.snapshot()
        running, waiting = names_in_use(snapshot)
        scheduler = await self._stats.latest() or {"tenants": {}, "capacity": {}}
        tenants = scheduler["tenants"].values()
        blocks = scheduler["capacity"].get("kv_blocks", 0)
        return ReplicaReport(
            in_flight=self._requests.in_flight,
            held=frozenset(names_loaded(snapshot)),
            computing=frozenset([*running, *waiting]),
            slots=self._slots,
            draining=not self._readiness.accepts_requests,
            base=self._base,
            waiting=sum(tenant["waiting"] for tenant in tenants),
            kv_use=sum(tenant["kv_blocks"] for tenant in tenants) / blocks if blocks else 0.0,
            server=self._server,
        )


def router(reporter: ReplicaReporter, token: str) -> APIRouter:
    """The route of a replica's report, for who knows `--replica-token`; without a token it is a 404 for everybody."""
    routes = APIRouter(include_in_schema=False)

    @routes.get(PATH)
    async def replica(authorization: Annotated[str, Header()] = "") -> ReplicaReport:
        """What this server holds and how busy it is."""
        if not token or not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(404)
        return await reporter.report()

    return routes


def peer_router(peers: Peers, history: History, log: RequestLog) -> APIRouter:
    """The routes for the other servers on the registry, which have checked who may see what; a 404 for all others."""
    routes = APIRouter(include_in_schema=False)

    async def peer(request: Request, x_loragate_peer: Annotated[str, Header()] = "") -> None:
        if not x_loragate_peer or not await peers.accepts(
            request.url.path, request.url.query, x_loragate_peer
        ):
            raise HTTPException(404)

    @routes.get(HISTORY, dependencies=[Depends(peer)])
    async def own_history(
        span: Span, tenant: str | None = None, adapter: str | None = None
    ) -> dict[str, Any]:
        """The steps of this server; null: nothing happened."""
        begins_s, steps = history.steps(span, tenant, adapter)
        told = [step.told() if step.is_used else None for step in steps]
        return {"begins_s": begins_s, "steps": told, "adapters": history.adapters(tenant)}

    @routes.get(REQUEST, dependencies=[Depends(peer)])
    async def own_request(wanted: str, tenant: str | None = None) -> dict[str, Any] | None:
        """One of the last requests of this server; null: it has none with this id."""
        found = log.find(wanted, tenant)
        return None if found is None else {"at": found.at, "options": found.options, "request": found.fields}

    return routes
