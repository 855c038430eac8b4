"""The fences around our generic package names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "adapters", "sampling", "benchmarks", "demo")


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_ours(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None and Path(module.__file__).is_relative_to(ROOT)


def test_no_package_file_below_tests() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_module_is_called_like_one_of_the_standard_library() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert file.stem not in sys.stdlib_module_names or file.stem.startswith("__"), file


@pytest.mark.slow
@pytest.mark.parametrize(
    "dotted",
    [
        "server.engine.scheduling.scheduler.TenantScheduler",
        "server.engine.plugin.register",
        "server.engine.lora_cpu.wrapper.LoragatePunicaWrapperCPU",
        "server.config.logs.JsonFormatter",
    ],
)
def test_names_given_to_vllm_resolve_in_a_fresh_process(dotted: str) -> None:
    module, _, attribute = dotted.rpartition(".")
    code = f"import importlib; getattr(importlib.import_module({module!r}), {attribute!r})"
    subprocess.run([sys.executable, "-P", "-c", code], cwd="/", check=True, timeout=120)


@pytest.mark.slow
def test_the_wheel_holds_our_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run([str(part) for part in command], check=True, timeout=240, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {*PACKAGES, "loragate"}
    for needed in (
        "demo/chat_template.jinja",
        "demo/model/model.safetensors",
        "demo/adapters/acme-support/adapter_model.safetensors",
        "adapters/registry/schema/migrations/env.py",
        "benchmarks/harness/shapes/qwen2.5-0.5b.json",
    ):
        assert needed in names, needed


def test_no_registry_host_and_no_path_of_a_machine() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    hosts = ("pypi" + ".org", "python" + "hosted", "registry.npm" + "js", "deb." + "debian.org")
    for file in files:
        path = ROOT / file
        if path.is_file() and path.suffix in {
            ".py",
            ".toml",
            ".md",
            ".txt",
            ".in",
            ".json",
            ".yml",
            ".yaml",
            "",
        }:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not any(host in text for host in hosts), file


@pytest.mark.parametrize(("extra", "package"), [("quantize", "autoawq"), ("preferences", "trl")])
def test_the_extra_and_its_lock_are_one(extra: str, package: str) -> None:
    """An extra has a lock of its own, with nothing in it that the server's lock decides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = ROOT / "requirements"
    wanted = [
        line
        for line in (requirements / f"{extra}.in").read_text(encoding="utf-8").splitlines()
        if not line.startswith(("#", "-c"))
    ]
    assert project["optional-dependencies"][extra] == wanted

    def locked(name: str) -> set[str]:
        lines = (requirements / name).read_text(encoding="utf-8").splitlines()
        return {line.partition("==")[0] for line in lines}

    assert package in locked(f"{extra}.txt")
    assert not locked(f"{extra}.txt") & locked("cpu.txt")


def test_cuda_without_a_gpu_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    missing = tmp_path / "nvidia-smi"
    missing.write_text("#!/bin/sh\nexit 9\n")
    missing.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "serve", "CUDA=1", f"VENV={tmp_path / 'venv'}"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert made.returncode != 0 and "nvidia-smi lists none" in made.stderr
    assert not (tmp_path / "venv").exists()
