"""Ray Serve's router with loragate's placement. It runs in each front, on the front's event loop.

Leans on (ray 2.60) `RequestRouter.choose_replicas`, `.update_replicas` and `.on_replica_actor_died`; on
`RunningReplica.routing_stats` and `.replica_metadata`, which is what `record_routing_stats` and
`record_replica_metadata` of the deployment returned last; and on `PendingRequest.kwargs`, the arguments of
`DeploymentHandle.choose_replica`.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from server.cluster import front_views
from server.cluster.replica_views import ReplicaReport

_FIELDS = frozenset(ReplicaReport.__dataclass_fields__) - {"url"}


class AdapterRouter(FIFOMixin, LocalityMixin, RequestRouter):
    """Ranks the replicas for a request by `server.cluster.placement`."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of one replica each, the best first; Ray takes the first that has room."""
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        wanted: dict[str, Any] = pending_request.kwargs if pending_request is not None else {}
        failed = wanted.get("failed", frozenset())
        chosen = front_views.views.choose(wanted.get("adapter"), wanted.get("session"), failed.__contains__)
        return [[by_id[view.id]] for view in chosen if view.id in by_id]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Ray whenever a replica comes, goes or has reported."""
        super().update_replicas(replicas)
        front_views.views.update({replica.replica_id.unique_id: report_of(replica) for replica in replicas})

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Called by Ray when a replica is found dead, before the next list without it."""
        super().on_replica_actor_died(replica_id)
        front_views.views.forget(replica_id.unique_id)


def report_of(replica: RunningReplica) -> ReplicaReport:
    """A replica's last report; one that has not reported yet holds nothing."""
    stats = {name: replica.routing_stats[name] for name in _FIELDS if name in replica.routing_stats}
    for name in ("held", "computing"):
        stats[name] = frozenset(stats.get(name, ()))
    return ReplicaReport(**stats, url=replica.replica_metadata.get("url", ""))
