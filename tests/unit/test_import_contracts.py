"""The contracts on imports hold by themselves: an import that is not allowed breaks them, wherever it is planted."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")
CONFIG = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
ALLOWED = {
    package: tuple(contract["allowed_importers"])
    for contract in CONFIG["contracts"]
    if contract["type"] == "protected"
    for package in contract["protected_modules"]
}


def fenced_modules(package: str) -> list[str]:
    """Every module that may not import the package."""
    files = (file for root in CONFIG["root_packages"] for file in (REPOSITORY / root).rglob("*.py"))
    names = (".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files)
    allowed = ALLOWED[package]
    return sorted(
        name
        for name in names
        if not name.endswith("__init__") and not any(f"{name}.".startswith(f"{part}.") for part in allowed)
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages' Python files, and the contracts."""
    folder = tmp_path_factory.mktemp("contracts")
    for root in CONFIG["root_packages"]:
        for file in (REPOSITORY / root).rglob("*.py"):
            into = folder / file.relative_to(REPOSITORY)
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, into)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT, "--no-cache", "--no-logo"], cwd=folder, env={}, capture_output=True, text=True, timeout=60
    )


#: Drawn once, the same ones each time.
PLANTED = [
    (package, module)
    for package in ("vllm", "torch")
    for module in random.Random(12).sample(fenced_modules(package), 3)
]


@pytest.mark.slow
def test_the_contracts_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def broken(copy: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """What the linter says of all the planted imports at once."""
    kept = {copy / f"{module.replace('.', '/')}.py": package for package, module in PLANTED}
    whole = {file: file.read_text() for file in kept}
    for file, package in kept.items():
        file.write_text(f"{whole[file]}\nimport {package}\n")
    yield lint(copy)
    for file, text in whole.items():
        file.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "module"), PLANTED)
def test_a_planted_import_breaks_them(
    broken: subprocess.CompletedProcess[str], package: str, module: str
) -> None:
    assert broken.returncode == 1 and "2 broken" in broken.stdout, broken.stdout + broken.stderr
    _, found = broken.stdout.split(f"Illegal imports of protected package {package}:\n\n", 1)
    assert f"- {module} -> {package} (l." in found
