"""What Ray Serve is told to run: the document of its REST API, as `loragate deploy` sends it and KubeRay has it.

Leans on (ray 2.60) `ServeDeploySchema`. Serve replaces the servers when `args`, `ray_actor_options` or `runtime_env`
change, and only starts or stops some when the number changes; an unchanged document changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from typing import Any

from server.cluster.names import APPLICATION, DEPLOYMENT
from server.cluster.ray_cluster.cluster_file import Autoscaling, ClusterFile
from server.cluster.replica_process import serve_flags
from server.config.settings import load

_IMPORT_PATH = "server.cluster.deployment:build"
_POLICY = "server.cluster.ray_cluster.autoscaling:WaitingAndKvUse"
#: Over how long the load is averaged: two of the reports that replicas send every 10 s.
_LOOK_BACK_S = 20.0
_BOUNDS = ("waiting", "kv_use", "kv_use_after")

Document = dict[str, Any]


class Change(StrEnum):
    """What a document changes."""

    CREATES = "creates"
    ROLLS = "replaces"
    SCALES = "scales"
    NOTHING = "unchanged"


def application_of(file: ClusterFile) -> Document:
    """The application that the file describes, one of the `applications` of the document."""
    settings = load(file.server)
    arguments = {
        "flags": list(serve_flags(file.server)),
        "data_dir": str(file.data_dir),
        "host": file.host,
        "start_timeout_s": file.start_timeout_s,
        "stop_timeout_s": settings.shutdown_timeout + settings.drain_delay_s,
        "program": version("loragate"),
        "generation": file.generation,
    }
    return {
        "name": APPLICATION,
        "route_prefix": None,
        "import_path": _IMPORT_PATH,
        "args": arguments,
        "runtime_env": dict(file.runtime_env),
        "deployments": [_deployment(file)],
    }


def document_with(application: Document, running: Document) -> Document:
    """The whole document: this application, and the others that run, which Serve would delete otherwise.

    Args:
        application: ours.
        running: what Serve answers to GET /api/serve/applications/.
    """
    others = [
        found["deployed_app_config"]
        for name, found in running.get("applications", {}).items()
        if name != APPLICATION and found.get("deployed_app_config")
    ]
    return {
        "proxy_location": running.get("proxy_location") or "Disabled",
        "applications": [*others, application],
    }


def change_of(application: Document, running: Document) -> Change:
    """What Serve will do when it gets this application."""
    deployed = (running.get("applications", {}).get(APPLICATION) or {}).get("deployed_app_config")
    if not deployed:
        return Change.CREATES
    if _rolled(deployed) != _rolled(application):
        return Change.ROLLS
    return Change.SCALES if _scaled(deployed) != _scaled(application) else Change.NOTHING


def _deployment(file: ClusterFile) -> Document:
    return {
        "name": DEPLOYMENT,
        **({"num_replicas": file.replicas} if file.autoscaling is None else _autoscaling(file.autoscaling)),
        "ray_actor_options": file.resources.model_dump(exclude_defaults=True)
        | file.resources.model_dump(include={"num_gpus", "num_cpus"}),
        "rolling_update_percentage": file.rollout_percent / 100,
        "max_surge_percent": file.surge_percent,
    }


def _autoscaling(wanted: Autoscaling) -> Document:
    return {
        "autoscaling_config": {
            "min_replicas": wanted.min_replicas,
            "max_replicas": wanted.max_replicas,
            "upscale_delay_s": wanted.up_after_s,
            "downscale_delay_s": wanted.down_after_s,
            "look_back_period_s": _LOOK_BACK_S,
            "policy": {
                "policy_function": _POLICY,
                "policy_kwargs": {name: getattr(wanted, name) for name in _BOUNDS},
            },
        }
    }


def _rolled(application: Document) -> Document:
    """The parts whose change replaces servers."""
    (deployment,) = application["deployments"]
    return {
        **{name: application.get(name) or {} for name in ("import_path", "args", "runtime_env")},
        "resources": deployment.get("ray_actor_options"),
        "policy": (deployment.get("autoscaling_config") or {}).get("policy"),
    }


def _scaled(application: Document) -> Document:
    """The other parts that are ours."""
    (deployment,) = application["deployments"]
    names = ("num_replicas", "autoscaling_config", "rolling_update_percentage", "max_surge_percent")
    return {name: deployment.get(name) for name in names}
