"""Compose, Kubernetes and systemd files: valid by their schemas, hardened, and true to the server's settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from server.config.settings import Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
UNIT = DEPLOY / "systemd/loragate.service"


def manifests() -> list[dict[str, Any]]:
    return [
        document for file in KUBERNETES for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in manifests() if document["kind"] == kind]
    return found


def container() -> dict[str, Any]:
    (found,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


# Kubernetes


@pytest.mark.parametrize("document", manifests(), ids=lambda document: document["kind"])
def test_kubernetes_takes_the_manifests(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_three_probes_differ_in_what_they_ask_or_how_patient_they_are() -> None:
    probes = {name: container()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/ready", "liveness": "/health", "readiness": "/ready"}
    patience_s = {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in probes.items()}
    assert patience_s["startup"] >= 900, "a large model is downloaded and loaded"
    assert patience_s["liveness"] >= 240, "the server starts a dead engine itself"
    assert patience_s["readiness"] <= 5, "out of the service at once"
    assert all(probe["timeoutSeconds"] <= probe["periodSeconds"] for probe in probes.values())


def test_the_pod_is_hardened_and_has_time_to_drain() -> None:
    pod, box = of_kind("Deployment")["spec"]["template"]["spec"], container()
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    context = box["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    env = {entry["name"]: entry.get("value") for entry in box["env"]}
    needed_s = float(env["LORAGATE_DRAIN_DELAY_S"]) + float(env["LORAGATE_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] >= needed_s + 10
    mounted = {mount["mountPath"] for mount in box["volumeMounts"]}
    assert mounted == {"/var/lib/loragate", "/tmp", "/dev/shm"}
    assert {mount["name"] for mount in box["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_names_in_the_manifests_refer_to_each_other() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"].items() <= labels.items()
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"] for port in container()["ports"]}
    assert of_kind("Service")["spec"]["ports"][0]["targetPort"] in ports
    secrets = [entry["valueFrom"]["secretKeyRef"] for entry in container()["env"] if "valueFrom" in entry]
    for secret in secrets:
        assert secret["name"] == of_kind("Secret")["metadata"]["name"]
        assert secret["key"] in of_kind("Secret")["stringData"]


# Compose


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_takes_the_file(file: Path) -> None:
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    parsed = compose_spec.ComposeSpecification.model_validate(given)
    known = parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, service in given["services"].items():
        assert set(service) <= set(known["services"][name]), "a field that compose does not know"


def test_compose_is_hardened_and_private() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"loragate", "postgres", "prometheus", "grafana"}
    for name, service in services.items():
        if name != "loragate":
            image, _, tag = service["image"].rpartition(":")
            assert image and re.search(r"\d+\.\d+", tag), f"{name}: {service['image']}"
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service.get("volumes", []):
            source = str(volume).split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
    ours = services["loragate"]
    assert ours["read_only"] and ours["cap_drop"] == ["ALL"] and ours["tmpfs"]
    grace_s = int(ours["stop_grace_period"].removesuffix("s"))
    env = ours["environment"]
    assert grace_s >= float(env["LORAGATE_DRAIN_DELAY_S"]) + float(env["LORAGATE_SHUTDOWN_TIMEOUT"]) + 10


def test_prometheus_and_grafana_find_what_they_are_given() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.split(":")[0] in services
    folder = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((folder / "dashboards/loragate.yaml").read_text(encoding="utf-8"))
    mounted = [str(volume).split(":")[1] for volume in services["grafana"]["volumes"]]
    assert boards["providers"][0]["options"]["path"] in mounted


# All of them


def test_every_variable_is_a_setting() -> None:
    fields = {f"LORAGATE_{name.upper()}" for name in Settings.model_fields}
    for file in [*KUBERNETES, *COMPOSE, UNIT, ROOT / "Dockerfile"]:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"\bLORAGATE_[A-Z_]+\b", text):
            assert name in fields | {"LORAGATE_TARGET"}, f"{file.name}: {name}"


# systemd


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def _with_a_real_command(tmp_path: Path) -> Path:
    """The unit with the command of this environment, which is there."""
    command = Path(sys.executable).with_name("loragate")
    unit = tmp_path / "loragate.service"
    text = UNIT.read_text(encoding="utf-8").replace("/opt/loragate/bin/loragate", str(command))
    unit.write_text(text, encoding="utf-8")
    return unit


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = _with_a_real_command(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "loragate.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


@needs_systemd
def test_systemd_finds_the_unit_hardened(tmp_path: Path) -> None:
    unit = _with_a_real_command(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=40", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def test_systemd_gives_time_to_drain() -> None:
    text = UNIT.read_text(encoding="utf-8")
    timeout_s = float(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)[0])
    fields = Settings.model_fields
    assert timeout_s >= fields["shutdown_timeout"].default + fields["drain_delay_s"].default + 15
    assert "KillSignal=SIGTERM" in text and "ExecStart=/opt/loragate/bin/loragate serve" in text
