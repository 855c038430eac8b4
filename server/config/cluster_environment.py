"""The environment of several servers on one machine: of Ray's processes, and of each server behind the front."""

from __future__ import annotations

import os


def export_ray_environment() -> None:
    """Set the variables that Ray reads, before it is imported; its processes inherit them."""
    os.environ.update(
        {
            # The router shares the front's event loop and its counts.
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
            # By default all processes of a cluster end 60 s after its head process has.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "RAY_USAGE_STATS_ENABLED": "0",
            # By default Ray's workers, and the servers that they start, give way to all other programs.
            "RAY_worker_niceness": "0",
        }
    )


def replica_environment(token: str) -> dict[str, str]:
    """The environment of a server that a front asks with this token (`Settings.replica_token`)."""
    return {**os.environ, "LORAGATE_REPLICA_TOKEN": token}
