"""GET /internal/replica: what the front of several servers asks one of them; see `server.cluster`."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.exceptions import HTTPException

from adapters.residency import Residency
from server.cluster.replica_views import PATH, ReplicaReport
from server.observability.readiness import Readiness
from server.observability.router_series import names_in_use, names_loaded
from server.observability.scheduler_stats import SchedulerStats
from server.request.request_service import RequestService


class ReplicaReporter:
    """Makes this server's report.

    Args:
        base: the public name of the base model.
        slots: `--max-loras`.
    """

    def __init__(
        self,
        residency: Residency,
        requests: RequestService,
        stats: SchedulerStats,
        readiness: Readiness,
        base: str,
        slots: int,
    ) -> None:
        self._residency = residency
        self._requests = requests
        self._stats = stats
        self._readiness = readiness
        self._base = base
        self._slots = slots

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
