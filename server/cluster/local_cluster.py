"""`loragate serve --replicas N`: several servers on this machine behind one front, in a Ray cluster of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cluster.replica_process import ReplicaOptions, serve_flags
from server.config.process_environment import export_ray_environment
from server.config.settings import Settings
from server.errors import SettingsError

if TYPE_CHECKING:
    from server.cluster.ray_chooser import RayChooser

#: Of a front's own: not passed on to its servers.
_OWN_FLAGS = ("host", "port", "data_dir", "tls_cert", "tls_key", "replica_token", "replica_name")
#: Ray's object store carries nothing here.
_OBJECT_STORE_BYTES = 80 << 20
_CPUS_PER_ACTOR = 0.1


def check_cluster(settings: Settings, replicas: int) -> None:
    """Whether several servers can run with these settings. Raises: SettingsError."""
    if not settings.database_url.startswith("postgresql"):
        raise SettingsError(
            f"--replicas {replicas} needs a PostgreSQL that the servers share: start one (for example `docker run "
            "--name loragate-db -e POSTGRES_PASSWORD=… -p 5432:5432 postgres:17`) and give --database-url "
            "postgresql+asyncpg://postgres:…@127.0.0.1/postgres."
        )
    check_ray(f"--replicas {replicas}")


def check_ray(what: str) -> None:
    """Raises: SettingsError: Ray, which `what` needs, is not installed."""
    if find_spec("ray") is None:
        raise SettingsError(f"{what} needs Ray Serve: pip install 'loragate[cluster]'.")


def run_cluster(given: Mapping[str, Any], settings: Settings, replicas: int) -> int:
    """Serve with several servers on this machine until a signal; returns the exit code. Raises: SettingsError."""
    check_cluster(settings, replicas)
    export_ray_environment()
    import uvloop

    from server.cluster.front_process import run_front
    from server.config.logs import configure

    configure(settings.log_format, settings.log_level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the front listens
    with _cluster(given, settings, replicas) as make_chooser:
        uvloop.run(run_front(settings, make_chooser))
    return 0


@contextmanager
def _cluster(
    given: Mapping[str, Any], settings: Settings, replicas: int
) -> Iterator[Callable[[], RayChooser]]:
    import ray
    from ray import serve

    from server.cluster.deployment import application
    from server.cluster.names import APPLICATION, DEPLOYMENT
    from server.cluster.ray_chooser import RayChooser

    gpus = settings.tensor_parallel_size if _has_gpus() else 0
    ray.init(
        num_cpus=max(os.cpu_count() or 1, replicas),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        namespace="serve",
        logging_level="error",
    )
    try:
        serve.start(proxy_location="Disabled")
        resources = {"num_cpus": _CPUS_PER_ACTOR, "num_gpus": gpus}
        servers = application(_options(given, settings), replicas, resources)
        serve.run(servers, name=APPLICATION, route_prefix=None, blocking=False)
        handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        yield lambda: RayChooser(handle)
    finally:
        with suppress(RuntimeError):  # the handle's router ended with the front's event loop
            serve.shutdown()
        ray.shutdown()


def _options(given: Mapping[str, Any], settings: Settings) -> ReplicaOptions:
    """How each server is started: with the flags of this command, and a depot that all share."""
    flags = {name: value for name, value in given.items() if name not in _OWN_FLAGS}
    flags.setdefault("depot", settings.depot or f"file://{settings.home.resolve() / 'depot'}")
    return ReplicaOptions(
        serve_flags(flags),
        str(settings.data_dir.expanduser().resolve() / "servers"),
        stop_timeout_s=settings.shutdown_timeout + settings.drain_delay_s,
    )


def _has_gpus() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))
