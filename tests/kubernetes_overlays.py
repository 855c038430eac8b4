"""The manifests as `kubectl apply -k` would send them, rendered by kubectl's own kustomize."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(folder.name for folder in (KUBERNETES / "components").iterdir())

Document = dict[str, Any]


@functools.cache
def _rendered(folder: Path) -> tuple[Document, ...]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))  # ten times as fast as the one in Python


def overlay(name: str) -> tuple[Document, ...]:
    """The documents of an overlay as it is in the repository."""
    return _rendered(KUBERNETES / "overlays" / name)


def overlay_with(name: str, components: list[str], folder: Path) -> tuple[Document, ...]:
    """The documents of an overlay whose list of components was edited, in a copy below `folder`."""
    copy = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    file = copy / "overlays" / name / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    kustomization["components"] = [f"../../components/{component}" for component in components]
    file.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return _rendered(file.parent)


def of_kind(documents: tuple[Document, ...], kind: str) -> list[Document]:
    """The documents of this kind."""
    return [document for document in documents if document["kind"] == kind]


def the(documents: tuple[Document, ...], kind: str) -> Document:
    """The only document of this kind."""
    (found,) = of_kind(documents, kind)
    return found


def pod_of(documents: tuple[Document, ...]) -> Document:
    """The servers' pod: labels in `metadata`, the rest in `spec`."""
    template: Document = the(documents, "Deployment")["spec"]["template"]
    return template


def container_of(documents: tuple[Document, ...]) -> Document:
    """The servers' container."""
    (found,) = pod_of(documents)["spec"]["containers"]
    return dict(found)


def variables_of(documents: tuple[Document, ...]) -> dict[str, str]:
    """The variables of the container whose values the manifests hold; secrets are left out."""
    found: dict[str, str] = {}
    for source in container_of(documents).get("envFrom", ()):
        name = source["configMapRef"]["name"]
        (config,) = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == name]
        found |= config["data"]
    return found | {
        entry["name"]: entry["value"] for entry in container_of(documents)["env"] if "value" in entry
    }


def files() -> Iterator[Path]:
    """Every manifest as it is written: documents and patches, without kustomizations."""
    yield from (file for file in sorted(KUBERNETES.rglob("*.yaml")) if file.name != "kustomization.yaml")


def scaling_queries() -> dict[str, str]:
    """Name of a trigger of the autoscaler -> the query that it sends to Prometheus."""
    file = KUBERNETES / "components/autoscaling/scaledobject.yaml"
    triggers = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["triggers"]
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in triggers}
