"""Joining a Ray cluster that runs: its dashboard's address, and a front for its servers."""

from __future__ import annotations

import signal
import socket
import sys

from server.cluster.local_cluster import check_ray
from server.cluster.names import APPLICATION, DEPLOYMENT
from server.config.process_environment import export_ray_environment
from server.config.settings import Settings
from server.errors import SettingsError

_DASHBOARD = "http://127.0.0.1:8265"
_CONNECT_TIMEOUT_S = 5.0


def dashboard_url(address: str) -> str:
    """Where the cluster's dashboard is.

    Args:
        address: the dashboard's URL, or the address of the cluster's head (host:port) where this machine has joined
            the cluster; "": the dashboard of this machine.

    Raises:
        SettingsError: no cluster is there.
    """
    if not address:
        return _DASHBOARD
    if address.startswith(("http://", "https://")):
        return address
    check_ray("A cluster's address")
    export_ray_environment()
    found = _join(address)
    import ray

    ray.shutdown()
    if not found:
        raise SettingsError(
            f"The Ray cluster at {address} has no dashboard, which `loragate deploy` asks: start its head with "
            "--include-dashboard=true."
        )
    return f"http://{found}"


def run_front_of(address: str, settings: Settings) -> int:
    """Relay requests to the servers of a cluster until a signal; returns the exit code. Raises: SettingsError."""
    check_ray("loragate front")
    export_ray_environment()
    import uvloop

    from server.cluster.front_process import run_front
    from server.config.logs import configure

    configure(settings.log_format, settings.log_level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the front listens
    _join(address or "auto")
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from server.cluster.ray_chooser import RayChooser

    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
    except RayServeException as error:
        raise SettingsError(
            "The Ray cluster has no servers yet; run `loragate deploy cluster.toml` first."
        ) from error
    try:
        uvloop.run(run_front(settings, lambda: RayChooser(handle)))
    finally:
        ray.shutdown()
    return 0


def _join(address: str) -> str:
    """Returns where the dashboard is, without http://. Raises: SettingsError."""
    import ray

    try:
        _check_listens(address)
        context = ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"No Ray cluster can be joined at {address} ({reason}); start this machine's part of it first "
            "(`ray start --address=HEAD:6379`)."
        ) from error
    return context.dashboard_url or ""


def _check_listens(address: str) -> None:
    """Ray itself tries for minutes. Raises: OSError, ValueError."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
