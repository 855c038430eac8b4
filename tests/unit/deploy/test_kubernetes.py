"""The Kubernetes manifests: valid by their schemas, hardened, and true to the server's settings and routes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_overlays as kustomize
import kubernetes_validate
import pytest
import yaml
from kubernetes_overlays import KUBERNETES, OVERLAYS, Document
from operator_schemas import SCHEMAS

from server.cli.generate_docs import openapi
from server.config.settings import Settings, load

pytestmark = [
    pytest.mark.slow,  # kubectl renders the manifests
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl 1.27 or newer"),
]

CHOICES = [
    ("one-server", ["ingress"]),
    ("one-server", ["gateway", "monitoring", "clients"]),
    ("many-servers", ["autoscaling", "ingress", "monitoring", "clients"]),
    ("many-servers", ["two-servers", "gateway"]),
    ("many-servers", ["two-servers", "inference-gateway"]),
]


def take(document: Document) -> None:
    """Fails where a cluster would refuse the document."""
    if document["kind"] in SCHEMAS:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


# What an operator applies


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_takes_the_overlays_as_they_are(name: str) -> None:
    documents = kustomize.overlay(name)
    for document in documents:
        take(document)
        assert document["kind"] not in SCHEMAS, "as it is, an overlay needs no operator"
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("name", "components"), CHOICES, ids=str)
def test_kubernetes_takes_the_components(name: str, components: list[str], tmp_path: Path) -> None:
    for document in kustomize.overlay_with(name, components, tmp_path):
        take(document)


def test_the_choices_have_every_component() -> None:
    assert {component for _, chosen in CHOICES for component in chosen} == set(kustomize.COMPONENTS)
    for name in OVERLAYS:
        text = (KUBERNETES / "overlays" / name / "kustomization.yaml").read_text(encoding="utf-8")
        offered = set(re.findall(r"\.\./\.\./components/([\w-]+)", text))
        not_one = {"autoscaling", "inference-gateway", "two-servers"} if name == "one-server" else set()
        assert offered == set(kustomize.COMPONENTS) - not_one


def test_no_file_is_left_out_of_its_kustomization() -> None:
    for file in KUBERNETES.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
        named = set(kustomization.get("resources", ()))
        named |= {patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch}
        named |= {env for maker in kustomization.get("configMapGenerator", ()) for env in maker["envs"]}
        there = {other.name for other in file.parent.iterdir() if other.is_file()} - {"kustomization.yaml"}
        assert {name for name in named if not name.startswith("..")} == there, file


def test_files_that_are_applied_by_themselves_are_valid() -> None:
    for name in ("migrate.yaml", "secret.example.yaml"):
        for document in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8")):
            take(document)


# The pods


def migration() -> Document:
    return dict(yaml.safe_load((KUBERNETES / "migrate.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [*OVERLAYS, "migration"])
def test_pods_are_hardened_and_have_no_service_links(name: str) -> None:
    template = (
        migration()["spec"]["template"] if name == "migration" else kustomize.pod_of(kustomize.overlay(name))
    )
    pod, (box,) = template["spec"], template["spec"]["containers"]
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = box["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in box["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"/var/lib/loragate", "/tmp"} <= {mount["mountPath"] for mount in box["volumeMounts"]}
    assert re.fullmatch(r"loragate:\d+\.\d+\.\d+-cuda", box["image"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_three_probes_differ_in_what_they_ask_or_how_patient_they_are(name: str) -> None:
    documents = kustomize.overlay(name)
    box = kustomize.container_of(documents)
    probes = {kind: box[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    assert paths == {"startup": "/ready", "liveness": "/health", "readiness": "/ready"}
    patience_s = {kind: probe["periodSeconds"] * probe["failureThreshold"] for kind, probe in probes.items()}
    assert patience_s["startup"] >= 900, "a large model is downloaded and loaded"
    assert patience_s["liveness"] >= 240, "the server starts a dead engine itself"
    assert patience_s["readiness"] <= 5, "out of the service at once"
    assert all(probe["timeoutSeconds"] <= probe["periodSeconds"] for probe in probes.values())
    deadline_s = kustomize.the(documents, "Deployment")["spec"]["progressDeadlineSeconds"]
    assert deadline_s > patience_s["startup"], "a slow first start is no failed rollout"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_settings_start_a_server_that_has_time_to_drain(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in list(os.environ):
        if variable.startswith("LORAGATE_"):
            monkeypatch.delenv(variable)
    documents = kustomize.overlay(name)
    for variable, value in kustomize.variables_of(documents).items():
        monkeypatch.setenv(variable, value)
    settings = load({})
    assert settings.model and settings.drain_delay_s >= 5
    grace_s = kustomize.pod_of(documents)["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= settings.drain_delay_s + settings.shutdown_timeout + 20


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_variable_is_a_setting_or_one_that_a_library_reads(name: str) -> None:
    fields = {f"LORAGATE_{field.upper()}" for field in Settings.model_fields}
    libraries = {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "FORWARDED_ALLOW_IPS",
        "HF_TOKEN",
        "PGPASSWORD",
    }
    documents = kustomize.overlay(name)
    given = {entry["name"] for entry in kustomize.container_of(documents)["env"]}
    assert given | kustomize.variables_of(documents).keys() <= fields | libraries


def test_the_proxies_that_are_believed_are_private() -> None:
    from uvicorn.middleware.proxy_headers import _TrustedHosts

    for component in ("ingress", "gateway", "inference-gateway"):
        text = (KUBERNETES / f"components/{component}/deployment.yaml").read_text(encoding="utf-8")
        value = re.findall(r'FORWARDED_ALLOW_IPS, value: "([^"]+)"', text)[0]
        believed = _TrustedHosts(value)
        assert all(address in believed for address in ("10.1.2.3", "172.20.0.1", "192.168.9.9", "fd00::1"))
        assert "8.8.8.8" not in believed and "2001:db8::1" not in believed
        # From the right, the first address that is no proxy of ours.
        assert believed.get_trusted_client_address("6.6.6.6, 8.8.8.8, 10.0.0.7")[0] == "8.8.8.8"


# Names that refer to each other


def _secret_keys() -> tuple[set[str], set[str]]:
    """Keys that the example sets, and those that it offers in a comment."""
    text = (KUBERNETES / "secret.example.yaml").read_text(encoding="utf-8")
    return set(yaml.safe_load(text)["stringData"]), set(re.findall(r"^  # ([a-z-]+): …?", text, re.M))


@pytest.mark.parametrize("name", [*OVERLAYS, "migration"])
def test_every_secret_is_in_the_example(name: str) -> None:
    box: Document = (
        migration()["spec"]["template"]["spec"]["containers"][0]
        if name == "migration"
        else kustomize.container_of(kustomize.overlay(name))
    )
    set_, offered = _secret_keys()
    for entry in box["env"]:
        if "valueFrom" in entry:
            secret = entry["valueFrom"]["secretKeyRef"]
            assert secret["name"] == "loragate" and secret["key"] in set_ | offered, secret
            assert secret.get("optional", False) or secret["key"] in set_, "without it no pod starts"
            assert secret.get("optional", False) is not (entry["name"] == "LORAGATE_DATABASE_URL")


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_refer_to_each_other(name: str) -> None:
    documents = kustomize.overlay(name)
    labels = kustomize.pod_of(documents)["metadata"]["labels"].items()
    deployment, service = kustomize.the(documents, "Deployment"), kustomize.the(documents, "Service")
    assert deployment["spec"]["selector"]["matchLabels"].items() == labels, "immutable in a running cluster"
    assert service["spec"]["selector"].items() <= labels
    migrating = migration()["spec"]["template"]["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= migrating, "the job is no server"
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in {entry["name"] for entry in kustomize.container_of(documents)["ports"]}
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for document in kustomize.of_kind(documents, kind):
            selector = document["spec"].get("podSelector") or document["spec"]["selector"]
            assert selector["matchLabels"].items() <= labels
    claims = {
        document["metadata"]["name"] for document in kustomize.of_kind(documents, "PersistentVolumeClaim")
    }
    volumes = kustomize.pod_of(documents)["spec"]["volumes"]
    assert {
        v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
    } == claims


# How an upgrade goes


def test_one_server_is_recreated_because_its_volume_has_one_user() -> None:
    documents = kustomize.overlay("one-server")
    assert kustomize.the(documents, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert kustomize.the(documents, "Deployment")["spec"]["replicas"] == 1
    assert kustomize.the(documents, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert kustomize.of_kind(documents, "PodDisruptionBudget") == [], (
        "it would forbid every drain of the node"
    )


def test_many_servers_are_replaced_one_by_one_without_an_outage() -> None:
    documents = kustomize.overlay("many-servers")
    spec = kustomize.the(documents, "Deployment")["spec"]
    assert spec["replicas"] >= 2 and spec["strategy"]["type"] == "RollingUpdate"
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert kustomize.the(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    for claim in kustomize.of_kind(documents, "PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "a surge pod must get it too"
    mounts = {
        mount["mountPath"]: mount["name"] for mount in kustomize.container_of(documents)["volumeMounts"]
    }
    volumes = {volume["name"]: volume for volume in kustomize.pod_of(documents)["spec"]["volumes"]}
    assert "emptyDir" in volumes[mounts["/var/lib/loragate"]], "uploads and logs are each server's own"
    assert "persistentVolumeClaim" in volumes[mounts["/depot"]]
    # The Dockerfile's HF_HOME.
    assert "persistentVolumeClaim" in volumes[mounts["/var/lib/loragate/huggingface"]]


# Who reaches the server


def _selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    return selector is None or selector.get("matchLabels", {}).items() <= labels.items()


def reaches(documents: tuple[Document, ...], namespace: str, labels: dict[str, str]) -> bool:
    """Whether a pod of that namespace may connect, as Kubernetes documents it: policies and entries add up."""
    own = "serving"
    for policy in kustomize.of_kind(documents, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for rule in policy["spec"]["ingress"]:
            assert rule["ports"] == [{"protocol": "TCP", "port": "http"}] and rule["from"]
            for peer in rule["from"]:
                there = (
                    _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
                    if "namespaceSelector" in peer
                    else namespace == own
                )
                if there and _selects(peer.get("podSelector"), labels):
                    return True
    return False


NGINX = ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx", "x": "y"})
ENVOY = ("envoy-gateway-system", {"app.kubernetes.io/component": "proxy"})
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
PICKER = ("serving", {"app.kubernetes.io/name": "loragate-endpoint-picker"})
POLICIES = ("ingress", "gateway", "inference-gateway", "clients")
CLIENT = ("serving", {"loragate-client": "true"})


@pytest.mark.parametrize(
    ("components", "admitted"),
    [
        (["ingress"], [NGINX, PROMETHEUS]),
        (["gateway"], [ENVOY, PROMETHEUS]),
        (["inference-gateway"], [ENVOY, PICKER, PROMETHEUS]),
        (["ingress", "monitoring", "autoscaling"], [NGINX, PROMETHEUS]),
        (["ingress", "clients"], [NGINX, PROMETHEUS, CLIENT]),
    ],
    ids=str,
)
def test_nobody_else_reaches_the_server(
    components: list[str], admitted: list[tuple[str, dict[str, str]]], tmp_path: Path
) -> None:
    documents = kustomize.overlay_with("many-servers", components, tmp_path)
    assert len(kustomize.of_kind(documents, "NetworkPolicy")) == len(set(components) & {*POLICIES}) + 1
    for namespace, labels in (NGINX, ENVOY, PROMETHEUS, CLIENT, PICKER):
        assert reaches(documents, namespace, labels) == ((namespace, labels) in admitted), (namespace, labels)
        assert not reaches(documents, "another", labels)
        assert not reaches(documents, namespace, {}) and not reaches(documents, "serving", {"a": "b"})


# What comes through the ingress


def _ingress_paths() -> list[tuple[str, str]]:
    ingress = kustomize.the(kustomize.overlay("one-server"), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    backends = [path["backend"] for path in rule["http"]["paths"]]
    assert all(b == {"service": {"name": "loragate", "port": {"name": "http"}}} for b in backends)
    return [(path["pathType"], path["path"]) for path in rule["http"]["paths"]]


def _gateway_paths() -> list[tuple[str, str]]:
    route = yaml.safe_load((KUBERNETES / "components/gateway/httproute.yaml").read_text(encoding="utf-8"))
    (rule,) = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"} and rule["backendRefs"] == [{"name": "loragate", "port": 80}]
    return [(match["path"]["type"].removeprefix("Path"), match["path"]["value"]) for match in rule["matches"]]


def _pool_paths() -> list[tuple[str, str]]:
    """Through the inference gateway: of both rules."""
    file = KUBERNETES / "components/inference-gateway/httproute.yaml"
    picked, other = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["rules"]
    assert picked["timeouts"] == other["timeouts"] == {"request": "0s"}
    assert [reference["kind"] for reference in picked["backendRefs"]] == ["InferencePool"]
    assert other["backendRefs"] == [{"name": "loragate", "port": 80}]
    matches = [match["path"] for rule in (picked, other) for match in rule["matches"]]
    return [(path["type"].removeprefix("Path"), path["value"]) for path in matches]


@pytest.mark.parametrize(
    "paths", [_ingress_paths, _gateway_paths, _pool_paths], ids=["ingress", "gateway", "inference-gateway"]
)
def test_clients_reach_every_route_but_those_of_the_cluster(paths: Any) -> None:
    def served(path: str) -> bool:
        return any(
            path == where or (kind == "Prefix" and path.startswith(f"{where}/")) for kind, where in paths()
        )

    routes = {*openapi()["paths"], "/console", "/console/", "/console/app.js", "/openapi.json"}
    assert len(routes) > 25
    for route in routes:
        assert served(route) == (route not in ("/metrics", "/health", "/ready", "/version")), route


def test_the_ingress_buffers_nothing_and_waits_for_long_answers() -> None:
    ingress = kustomize.the(kustomize.overlay("one-server"), "Ingress")
    prefix = "nginx.ingress.kubernetes.io/proxy-"
    given = {k.removeprefix(prefix): v for k, v in ingress["metadata"]["annotations"].items()}
    assert given["buffering"] == given["request-buffering"] == "off"
    assert given["body-size"] == "0", "adapters are gigabytes; the server has its own limits"
    assert int(given["read-timeout"]) >= 3600 and int(given["send-timeout"]) >= 3600
    assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]


# Prometheus and KEDA


def test_the_monitor_scrapes_the_service_and_names_the_job_of_the_alerts(tmp_path: Path) -> None:
    documents = kustomize.overlay_with("one-server", ["monitoring"], tmp_path)
    monitor, service = kustomize.the(documents, "ServiceMonitor")["spec"], kustomize.the(documents, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "loragate"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["path"] == "/metrics" and endpoint["port"] == service["spec"]["ports"][0]["name"]


def test_the_operator_gets_the_same_rules_as_prometheus(tmp_path: Path) -> None:
    documents = kustomize.overlay_with("one-server", ["monitoring"], tmp_path)
    rules = yaml.safe_load((KUBERNETES.parent / "prometheus/rules.yml").read_text(encoding="utf-8"))
    assert kustomize.the(documents, "PrometheusRule")["spec"] == rules


def test_the_autoscaler_decides_the_number_of_servers(tmp_path: Path) -> None:
    documents = kustomize.overlay_with("many-servers", ["autoscaling"], tmp_path)
    assert "replicas" not in kustomize.the(documents, "Deployment")["spec"], "each apply would set it again"
    spec = kustomize.the(documents, "ScaledObject")["spec"]
    assert spec["scaleTargetRef"] == {"kind": "Deployment", "name": "loragate"}
    assert 2 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    kinds = {trigger["name"]: trigger["metricType"] for trigger in spec["triggers"]}
    assert kinds == {"queue": "AverageValue", "kv-cache": "Value"}
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 600
    target = {"apiVersion": "apps/v1"} | spec["scaleTargetRef"]
    scaler = {"scaleTargetRef": target, "maxReplicas": spec["maxReplicaCount"], "behavior": behavior}
    kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    take({**kind, "metadata": {"name": "made-by-keda"}, "spec": scaler})


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's prometheus package")
def test_the_autoscaler_sees_load_rest_and_silence(tmp_path: Path) -> None:
    """Two servers with work, two without, and none that Prometheus can scrape: then nothing must be scaled."""
    servers = [f'{{job="loragate", instance="{name}"}}' for name in "ab"]
    ready = {f"loragate_ready{server}": "1x10" for server in servers}
    ready |= {f"loragate_kv_capacity_blocks{server}": "100x10" for server in servers}
    tenant = '{job="loragate", instance="a", tenant="acme"}'
    busy = {f"loragate_requests_waiting{tenant}": "9x10", f"loragate_kv_used_blocks{tenant}": "90x10"}
    cases = [(ready | busy, (9, 0.45)), (ready, (0, 0)), ({"other": "1x10"}, (None, None))]
    queries = kustomize.scaling_queries()
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": queries[name],
                    "eval_time": "5m",
                    "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
                }
                for name, value in zip(("queue", "kv-cache"), expected, strict=True)
            ],
        }
        for series, expected in cases
    ]
    file = tmp_path / "scaling.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": tests}), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# The endpoint picker


def _picker(tmp_path: Path) -> tuple[Document, ...]:
    return kustomize.overlay_with("many-servers", ["two-servers", "inference-gateway"], tmp_path)


def test_the_pool_and_the_picker_refer_to_the_servers_and_each_other(tmp_path: Path) -> None:
    documents = _picker(tmp_path)
    pool = kustomize.the(documents, "InferencePool")["spec"]
    servers, picker = (
        next(d for d in kustomize.of_kind(documents, "Deployment") if d["metadata"]["name"] == name)
        for name in ("loragate", "loragate-endpoint-picker")
    )
    assert (
        pool["selector"]["matchLabels"].items() <= servers["spec"]["template"]["metadata"]["labels"].items()
    )
    (port,) = servers["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert pool["targetPorts"] == [{"number": port["containerPort"]}]
    labels = picker["spec"]["template"]["metadata"]["labels"]
    assert not pool["selector"]["matchLabels"].items() <= labels.items(), "the picker is no server"
    names = {d["metadata"]["name"]: d for d in kustomize.of_kind(documents, "Service")}
    service = names[pool["endpointPickerRef"]["name"]]
    assert service["spec"]["selector"].items() <= labels.items()
    assert [entry["port"] for entry in service["spec"]["ports"]] == [
        pool["endpointPickerRef"]["port"]["number"]
    ]
    (box,) = picker["spec"]["template"]["spec"]["containers"]
    assert f"--pool-name={kustomize.the(documents, 'InferencePool')['metadata']['name']}" in box["args"]
    assert box["securityContext"]["readOnlyRootFilesystem"]
    (route,) = kustomize.of_kind(documents, "HTTPRoute")
    (reference,) = route["spec"]["rules"][0]["backendRefs"]
    assert reference["name"] == "loragate" and reference["group"] in pool_group(documents)
    binding = kustomize.the(documents, "RoleBinding")
    account = kustomize.the(documents, "ServiceAccount")["metadata"]["name"]
    assert (
        binding["subjects"][0]["name"] == account == picker["spec"]["template"]["spec"]["serviceAccountName"]
    )
    assert binding["roleRef"]["name"] == kustomize.the(documents, "Role")["metadata"]["name"]


def pool_group(documents: tuple[Document, ...]) -> str:
    return str(kustomize.the(documents, "InferencePool")["apiVersion"])


def test_the_picker_reads_series_that_the_server_has(tmp_path: Path) -> None:
    """The names that its scorers read; `tests/e2e/test_metrics.py` sees them on a running server."""
    (config,) = (
        d for d in kustomize.of_kind(_picker(tmp_path), "ConfigMap") if "config.yaml" in d.get("data", {})
    )
    written = config["data"]["config.yaml"]
    parsed = yaml.safe_load(written)
    used = {plugin["pluginRef"] for plugin in parsed["schedulingProfiles"][0]["plugins"]}
    assert used == {plugin["type"] for plugin in parsed["plugins"]} and "lora-affinity-scorer" in used
    series = set(re.findall(r"# (vllm:\w+)", written))
    seen = (KUBERNETES.parents[1] / "tests/e2e/test_metrics.py").read_text(encoding="utf-8")
    assert series and all(f'"{name}' in seen for name in series), series
