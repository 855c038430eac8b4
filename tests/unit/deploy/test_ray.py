"""deploy/ray: the KubeRay manifest is valid by its schemas, hardened, and true to cluster.toml and the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from operator_schemas import SCHEMAS

from server.cluster.ray_cluster.cluster_file import read_cluster_file
from server.config.process_environment import RAY_VARIABLES
from server.config.settings import Settings

pytestmark = pytest.mark.slow  # Kubernetes' schemas are large

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deploy/ray/kuberay.yaml"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text(encoding="utf-8")))


def the(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS if document["kind"] == kind]
    return found


def groups() -> dict[str, dict[str, Any]]:
    """Name of a group of machines → its part of the cluster."""
    spec = the("RayCluster")["spec"]
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pods() -> dict[str, dict[str, Any]]:
    """Every pod's template, by its group; the job's too."""
    return {name: group["template"] for name, group in groups().items()} | {
        "job": the("Job")["spec"]["template"]
    }


def boxes() -> list[dict[str, Any]]:
    return [box for pod in pods().values() for box in pod["spec"]["containers"]]


def test_kubernetes_takes_the_documents_and_every_pod() -> None:
    latest = kubernetes_validate.latest_version()
    for document in DOCUMENTS:
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
        else:
            kubernetes_validate.validate(document, latest, strict=True)
    for name, template in pods().items():
        metadata = template["metadata"] | {"name": name}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, latest, strict=True)


def test_its_cluster_file_asks_for_what_the_machines_have(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(the("ConfigMap")["data"]["cluster.toml"], encoding="utf-8")
    cluster = read_cluster_file(file)
    servers = groups()["servers"]
    (box,) = servers["template"]["spec"]["containers"]
    asked = box["resources"]["requests"]
    assert cluster.replicas == servers["replicas"]
    assert cluster.resources.num_gpus == float(asked["nvidia.com/gpu"])
    assert cluster.resources.num_cpus < float(asked["cpu"]), "Ray and the server's actor take some"
    assert str(cluster.data_dir) in {mount["mountPath"] for mount in box["volumeMounts"]}
    grace_s = servers["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= float(cluster.server["shutdown_timeout"]) + 20
    example = read_cluster_file(ROOT / "deploy/ray/cluster.toml")
    assert cluster.server.keys() == example.server.keys()


def test_pods_are_hardened_and_have_no_service_links() -> None:
    for name, template in pods().items():
        pod = template["spec"]
        assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        mounted = {mount["name"] for box in pod["containers"] for mount in box.get("volumeMounts", ())}
        assert volumes == mounted, name
    for box in boxes():
        context = box["securityContext"]
        assert not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}
        assert re.fullmatch(r"loragate:\d+\.\d+\.\d+-ray", box["image"])
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "AS ray\n" in dockerfile and "requirements/cluster.txt" in dockerfile


def test_the_head_may_be_away() -> None:
    version = re.search(r"^ray==(\S+)", (ROOT / "requirements/cluster.txt").read_text(), re.M)
    spec = the("RayCluster")["spec"]
    assert version and spec["rayVersion"] == version[1]
    assert spec["gcsFaultToleranceOptions"]["redisAddress"]
    for name, group in groups().items():
        ray, *_ = group["template"]["spec"]["containers"]
        given = {entry["name"]: entry.get("value") for entry in ray["env"]}
        assert int(given["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 600, name
        assert given["RAY_worker_niceness"] == "0", name


def test_it_sets_what_a_cluster_on_one_machine_gets() -> None:
    ray, *_ = groups()["servers"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in ray["env"]}
    of_fronts = "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"  # `loragate front` sets it itself
    assert {
        name: value for name, value in RAY_VARIABLES.items() if name != of_fronts
    }.items() <= given.items()


def test_names_refer_to_each_other() -> None:
    cluster, service, job = the("RayCluster"), the("Service"), the("Job")
    fronts = groups()["fronts"]["template"]
    assert service["spec"]["selector"].items() <= fronts["metadata"]["labels"].items()
    assert (
        not service["spec"]["selector"].items()
        <= groups()["servers"]["template"]["metadata"]["labels"].items()
    )
    (front,) = [box for box in fronts["spec"]["containers"] if box["name"] == "front"]
    assert front["ports"] == [{"name": "http", "containerPort": 8000}]
    (deploy,) = job["spec"]["template"]["spec"]["containers"]
    # KubeRay calls the head's Service so.
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in deploy["command"]
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == the("ConfigMap")["metadata"]["name"]
    (mount,) = deploy["volumeMounts"]
    assert f"{mount['mountPath']}/cluster.toml" in deploy["command"]


def test_variables_are_settings_and_secrets_are_in_the_example() -> None:
    known = {f"LORAGATE_{field.upper()}" for field in Settings.model_fields}
    example = (ROOT / "deploy/kubernetes/secret.example.yaml").read_text(encoding="utf-8")
    secrets = [
        entry["valueFrom"]["secretKeyRef"]
        for box in boxes()
        for entry in box.get("env", ())
        if "valueFrom" in entry
    ]
    secrets.append(
        the("RayCluster")["spec"]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    )
    for secret in secrets:
        assert secret["name"] == "loragate" and re.search(rf"^  (# )?{secret['key']}: ", example, re.M), (
            secret
        )
    for box in boxes():
        for entry in box.get("env", ()):
            assert not entry["name"].startswith("LORAGATE_") or entry["name"] in known
