"""What Ray Serve is told, and what it will do about it."""

from __future__ import annotations

from typing import Any

import pytest

from server.cluster.ray_cluster.cluster_file import ClusterFile
from server.cluster.ray_cluster.serve_config import Change, application_of, change_of, document_with

SERVER = {
    "model": "m",
    "database_url": "postgresql+asyncpg://db/loragate",
    "depot": "s3://b",
    "max_loras": 4,
    "shutdown_timeout": 40,
    "presets": {"brief": {"max_tokens": 9}},
}


def described(**more: Any) -> ClusterFile:
    return ClusterFile.model_validate({"replicas": 3, "data_dir": "/d", "server": SERVER} | more)


def running(application: dict[str, Any]) -> dict[str, Any]:
    """As Serve tells it: only what was set."""
    return {"proxy_location": "Disabled", "applications": {"loragate": {"deployed_app_config": application}}}


def test_servers_get_their_settings_as_flags() -> None:
    arguments = application_of(described())["args"]
    flags = arguments["flags"]
    assert flags[flags.index("--max-loras") + 1] == "4"
    assert flags[flags.index("--presets") + 1] == '{"brief": {"max_tokens": 9}}'
    assert arguments["stop_timeout_s"] == 40 and arguments["program"]


@pytest.mark.parametrize(
    ("change", "does"),
    [
        ({}, Change.NOTHING),
        ({"replicas": 4}, Change.SCALES),
        ({"surge_percent": 34}, Change.SCALES),
        ({"replicas": None, "autoscaling": {"max_replicas": 4}}, Change.ROLLS),
        ({"generation": "2"}, Change.ROLLS),
        ({"server": SERVER | {"max_loras": 8}}, Change.ROLLS),
        ({"resources": {"num_gpus": 2}}, Change.ROLLS),
        ({"runtime_env": {"py_executable": "/opt/new/bin/python"}}, Change.ROLLS),
    ],
    ids=str,
)
def test_what_a_change_does(change: dict[str, Any], does: Change) -> None:
    before = application_of(described())
    assert change_of(application_of(described(**change)), running(before)) is does


def test_limits_of_the_autoscaling_change_without_a_rollout() -> None:
    before, after = (
        application_of(described(replicas=None, autoscaling={"max_replicas": most})) for most in (4, 5)
    )
    assert change_of(after, running(before)) is Change.SCALES
    (deployment,) = after["deployments"]
    assert "num_replicas" not in deployment and deployment["autoscaling_config"]["max_replicas"] == 5


def test_the_first_time_it_creates() -> None:
    application = application_of(described())
    for nothing in ({}, {"applications": {}}, {"applications": {"loragate": {"deployed_app_config": None}}}):
        assert change_of(application, nothing) is Change.CREATES


def test_other_applications_stay() -> None:
    other = {"name": "theirs", "import_path": "a:b"}
    found = running(application_of(described())) | {"proxy_location": "EveryNode"}
    found["applications"]["theirs"] = {"deployed_app_config": other}
    found["applications"]["by_code"] = {"deployed_app_config": None}
    document = document_with(application_of(described(replicas=5)), found)
    assert [each["name"] for each in document["applications"]] == ["theirs", "loragate"]
    assert document["proxy_location"] == "EveryNode"


@pytest.mark.slow
def test_ray_takes_the_document() -> None:
    from ray.serve.schema import ServeDeploySchema

    for file in (described(), described(replicas=None, autoscaling={"max_replicas": 4})):
        document = document_with(application_of(file), {})
        taken = ServeDeploySchema.model_validate(document).model_dump(exclude_unset=True)
        (application,) = taken["applications"]
        assert application["args"] == document["applications"][0]["args"]
        assert change_of(application_of(file), running(application)) is Change.NOTHING
