"""Starts that run out of memory end with the plan and flags that fit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil
import pytest
from server_process import LORAGATE


def shell(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LORAGATE, *args], capture_output=True, text=True, timeout=240, cwd="/")


def failed_start(home: Path, kv_cache_bytes: int) -> str:
    """The screen that a start with so large a KV cache ends in."""
    flags = ["--demo", "--port", "0", "--data-dir", str(home), "--kv-cache-memory-bytes", str(kv_cache_bytes)]
    done = subprocess.run(
        [LORAGATE, "serve", *flags],
        capture_output=True,
        text=True,
        timeout=500,
        cwd="/",
        start_new_session=True,
    )
    assert done.returncode == 1
    return done.stderr[done.stderr.index("loragate: The engine ran out of memory.") :]


@pytest.mark.timeout(600)
def test_a_start_that_wants_more_than_there_is(tmp_path: Path) -> None:
    """Twice the machine's memory for the KV cache; what is advised fits into what was left then."""
    wanted = 2 * psutil.virtual_memory().total
    screen = failed_start(tmp_path, wanted)
    assert f"asked    --kv-cache-memory-bytes {wanted}" in screen and "Traceback" not in screen
    left = re.search(r"The KV cache needs [\d.]+ GiB, but only ([\d.]+) GiB are left for it\.", screen)
    advised = re.search(r"^ +--kv-cache-memory-bytes (\d+)", screen, re.M)
    assert left is not None and advised is not None, screen
    assert 0.85 < int(advised[1]) / (float(left[1]) * 2**30) < 0.95, "what is left, less a tenth"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_start_that_finds_too_little_memory(tmp_path: Path) -> None:
    """Two million bytes hold three blocks; one sequence of full length needs 32 and vLLM's own."""
    screen = failed_start(tmp_path, 2_000_000)
    assert "KV cache is needed, which is larger than the available" in screen
    assert "asked    --kv-cache-memory-bytes 2000000 (1.9 MiB) --max-model-len 4096" in screen
    assert "--kv-cache-memory-bytes 17301504" in screen
    assert "Traceback" not in screen
    planned = shell("plan", "--demo", "--data-dir", str(tmp_path), "--kv-cache-memory-bytes", "17301504")
    assert planned.returncode == 0, planned.stdout
