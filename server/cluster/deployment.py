"""Servers as a deployment of Ray Serve: Ray places, restarts, scales and rolls them; it never carries a token.

Leans on (ray 2.60): the methods of a deployment's class that Serve calls: `record_replica_metadata` once,
`record_routing_stats` at the interval of `RequestRouterConfig`, `record_autoscaling_stats` where the number of
servers follows the load, `check_health`, and `__del__` after the last request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray.util
from ray import serve
from ray.serve.config import RequestRouterConfig

from server.cluster.names import DEPLOYMENT
from server.cluster.replica_process import STOP_GRACE_S, ReplicaOptions, ReplicaProcess

REPORT_INTERVAL_S = 0.5
_HEALTH_INTERVAL_S, _HEALTH_TIMEOUT_S = 2.0, 10.0
#: Serve counts requests; admission and the engine's queue limit them.
_MAX_REQUESTS = 100_000


class Replica:
    """One server: a process that this actor starts and with which it ends."""

    async def __init__(self, options: ReplicaOptions) -> None:  # type: ignore[misc]  # Serve awaits it
        host = options.host or ray.util.get_node_ip_address()
        name = serve.get_replica_context().replica_id.unique_id
        self._server = await ReplicaProcess.start(replace(options, host=host), name)
        self._ending = False
        self._watching = asyncio.create_task(self._end_with_server())

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Where fronts reach the server."""
        return {"url": self._server.url}

    async def record_routing_stats(self) -> dict[str, Any]:
        """A `ReplicaReport`; while the server does not answer, one that keeps requests away."""
        try:
            return await self._server.report()
        except (OSError, TimeoutError):  # aiohttp's connection errors are OSErrors
            return {"draining": True}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `ray_cluster.autoscaling` reads; nothing while the server does not answer."""
        try:
            report = await self._server.report()
        except (OSError, TimeoutError):
            return {}
        return {name: float(report[name]) for name in ("waiting", "kv_use")}

    async def __del__(self) -> None:
        """Called by Serve when the last request has ended: the server ends."""
        self._ending = True
        await self._server.stop()

    async def _end_with_server(self) -> None:
        """Ray sees an actor that has ended at once; a failing health check would take periods."""
        await self._server.wait()
        if not self._ending:
            os._exit(1)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application of one server, as Ray imports it by its path (`ray_cluster.serve_config`, which says how many).

    Args:
        arguments: the fields of `ReplicaOptions`; others, which tell one deployment from the next, are not read.
    """
    known = {name: arguments[name] for name in ReplicaOptions.__dataclass_fields__ if name in arguments}
    return application(ReplicaOptions(**known | {"flags": tuple(arguments["flags"])}), 1, {})


def application(options: ReplicaOptions, replicas: int, resources: dict[str, Any]) -> serve.Application:
    """The application of `replicas` servers, each with these resources of Ray (`num_cpus`, `num_gpus`)."""
    router = RequestRouterConfig(
        request_router_class="server.cluster.ray_router:AdapterRouter",
        request_routing_stats_period_s=REPORT_INTERVAL_S,
        request_routing_stats_timeout_s=10 * REPORT_INTERVAL_S,
    )
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=_MAX_REQUESTS,
        graceful_shutdown_timeout_s=options.stop_timeout_s + STOP_GRACE_S,
        health_check_period_s=_HEALTH_INTERVAL_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        request_router_config=router,
        ray_actor_options=resources,
    )
    return deployment.bind(options)
