"""The rules that the Dockerfile keeps; no container engine is at hand to build it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n\s*", " ", TEXT).splitlines()


def instructions(name: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in LINES if line.startswith(f"{name} ")]


def test_runs_as_nobody_in_exec_form_with_a_health_check() -> None:
    assert instructions("USER") == ["10001"]
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
        assert ":" in image or image in ("build", "runtime"), base
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
