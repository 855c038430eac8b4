"""The rules that the Dockerfile keeps; no container engine is at hand to build it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n\s*", " ", TEXT).splitlines()


def instructions(name: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in LINES if line.startswith(f"{name} ")]


def test_runs_as_nobody_in_exec_form_with_a_health_check() -> None:
    assert set(instructions("USER")) == {"10001", "root"} and instructions("USER")[-1] == "10001"
    assert instructions("ENTRYPOINT") == ['["loragate"]'] and instructions("CMD") == ['["serve"]']
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    (check,) = instructions("HEALTHCHECK")
    assert "/health" in check and 'CMD ["python"' in check and "curl" not in check


def test_installs_from_the_locks_only() -> None:
    for line in LINES:
        if "pip install" in line:
            assert line.count("--no-deps") == line.count("pip install"), line
    assert {"requirements/cpu.txt", "requirements/cuda.txt"} <= set(
        re.findall(r"requirements/\w+\.txt", TEXT)
    )


def test_bases_are_pinned_and_every_copied_path_exists() -> None:
    for base in instructions("FROM"):
        image = base.split()[0]
        assert ":" in image or image in ("build", "build-cuda", "runtime"), base
        assert not image.endswith(":latest")
    for copied in instructions("COPY"):
        if not copied.startswith("--from"):
            *sources, _ = copied.split()
            assert all((ROOT / source).exists() for source in sources), copied


def test_package_lists_do_not_stay_in_the_image() -> None:
    for line in LINES:
        if "apt-get install" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists" in line


def test_the_default_target_is_the_cpu() -> None:
    assert instructions("FROM")[-1].endswith("AS cpu")


# What hadolint would say (DL numbers are its rules)


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM "):
            current = found.setdefault(line.split()[-1], [])
        elif re.match(r"[A-Z]+ ", line) and found:
            current.append(line)
    return found


def test_runs_need_no_shell_tricks() -> None:
    for run in instructions("RUN"):
        assert not re.search(r"\b(sudo|cd|wget|curl|ssh|vim)\b", run), f"DL3004, DL3003, DL3047: {run}"
        assert " | " not in run, f"DL4006 wants pipefail: {run}"
        assert "apt-get upgrade" not in run and "apt " not in run, f"DL3005, DL3027: {run}"
        assert "apt-get install -y" in run or "apt-get install" not in run, f"DL3014: {run}"


def test_files_are_copied_and_places_are_absolute() -> None:
    assert not instructions("ADD"), "DL3020"
    assert not instructions("MAINTAINER"), "DL4000"
    assert all(place.startswith("/") for place in instructions("WORKDIR")), "DL3000"
    names = set(stages())
    for copied in instructions("COPY"):
        origin = re.match(r"--from=(\S+)", copied)
        assert origin is None or origin[1] in names, f"DL3022: {copied}"


def test_caches_and_secrets_stay_out() -> None:
    assert "PIP_NO_CACHE_DIR=1" in TEXT, "DL3042"
    for line in [*instructions("ENV"), *instructions("ARG")]:
        assert not re.search(r"(?i)(password|secret|token|api_?key)", line), line
    assert {"tests", ".git", ".venv"} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())


def test_each_target_ends_as_nobody_with_one_health_check() -> None:
    runtime = stages()["runtime"]
    users = [line for line in runtime if line.startswith("USER ")]
    assert users[-1] == "USER 10001", "DL3002"
    after = runtime[runtime.index(users[-1]) + 1 :]
    assert not [line for line in after if line.startswith("RUN ")]
    assert len([line for line in runtime if line.startswith("HEALTHCHECK ")]) == 1, "DL3057"
    for target in ("cpu", "cuda"):
        assert [line for line in LINES if line.startswith("FROM") and line.endswith(f"AS {target}")] == [
            f"FROM runtime AS {target}"
        ]
        assert stages()[target] == [f"COPY --from=build-{target} /opt/loragate /opt/loragate"]


def test_what_is_written_at_run_time_lies_in_the_volume_or_tmp() -> None:
    """So the root can be read-only."""
    env = dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV"))))
    (volume,) = instructions("VOLUME")
    assert env["LORAGATE_DATA_DIR"] == volume and env["HF_HOME"].startswith(volume)
    assert f"--home-dir {volume}" in TEXT and instructions("WORKDIR")[-1] == volume


# Its steps, executed


def copied(tmp_path: Path) -> Path:
    """The build context as the build stages see it."""
    source = tmp_path / "src"
    source.mkdir()
    for line in [*stages()["build"], *stages()["build-cpu"]]:
        if line.startswith("COPY "):
            *froms, to = line.split()[1:]
            for name in froms:
                place = source / to.removeprefix("./") / ("" if to != "./" else name)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, place)
    return source


def run_step(step: str, source: Path, home: Path, **more: str) -> None:
    script = step.replace("/opt/loragate", str(home))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}
    done = subprocess.run(["bash", "-euc", script], cwd=source, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_package_installs_from_what_is_copied(tmp_path: Path) -> None:
    """The last step of the build stage; the environment below it is this one's."""
    step = [line[4:] for line in stages()["build-cpu"] if line.startswith("RUN ")][-1]
    assert step.endswith("install --no-deps --no-build-isolation .")
    source, home = copied(tmp_path), tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (home / "bin/pip").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m pip --python {home}/bin/python "$@"\n', encoding="utf-8"
    )
    (home / "bin/pip").chmod(0o755)
    own = next((home / "lib").iterdir()) / "site-packages/below.pth"
    own.write_text(f"{Path(pytest.__file__).parents[1]}\n", encoding="utf-8")
    run_step(step, source, home, PIP_DISABLE_PIP_VERSION_CHECK="1")
    check = [str(home / "bin/loragate"), "--version"]
    assert "loragate" in subprocess.run(check, cwd="/", check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_user_of_the_runtime_can_be_made(tmp_path: Path) -> None:
    """The runtime stage's step, with the packages simulated and the user made in a folder of its own."""
    (step,) = [line[4:] for line in stages()["runtime"] if line.startswith("RUN ")]
    for tool in ("apt-get", "useradd"):
        if shutil.which(tool) is None or os.getuid() != 0:
            pytest.skip(f"needs {tool} and root")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).write_text("", encoding="utf-8")
    step = step.replace("apt-get update && ", "").replace("apt-get install -y", "apt-get install -s -y")
    step = step.replace("rm -rf /var/lib/apt/lists/*", "true").replace(
        "useradd", f"useradd --prefix {tmp_path}"
    )
    assert "install -s" in step and "--prefix" in step and "rm -rf" not in step
    run_step(step, tmp_path, tmp_path)
    assert "10001" in (tmp_path / "etc/passwd").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_step_of_the_cpu_build_runs(tmp_path: Path) -> None:
    source, home = copied(tmp_path), tmp_path / "opt"
    for step in [line[4:] for line in stages()["build-cpu"] if line.startswith("RUN ")]:
        run_step(step, source, home, TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu")
    for command in (["--version"], ["version"]):
        subprocess.run([str(home / "bin/loragate"), *command], cwd="/", check=True, timeout=120)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_pin_of_the_cuda_build_exists() -> None:
    """Resolved, not downloaded: the wheels are gigabytes."""
    (step, _) = [line[4:] for line in stages()["build-cuda"] if line.startswith("RUN ")]
    assert "-r requirements/cuda.txt" in step
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--python-platform", "x86_64-manylinux_2_28"]
    done = subprocess.run(
        [*command, "--python-version", "3.11", "--target", "/nonexistent", "-r", "requirements/cuda.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
