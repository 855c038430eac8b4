from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def kill_and_recover(url: str, folder: Path, rounds: int) -> str:
    command = [sys.executable, "-m", "tests.unit.adapters.lifecycle.crashing", url, folder, str(rounds), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_a_process_killed_anywhere_leaves_nothing_half_made(tmp_path: Path) -> None:
    assert "4 kills survived" in kill_and_recover(f"sqlite:///{tmp_path}/registry.db", tmp_path, 4)


@pytest.mark.long
def test_a_hundred_kills_on_sqlite(tmp_path: Path) -> None:
    assert "100 kills survived" in kill_and_recover(f"sqlite:///{tmp_path}/registry.db", tmp_path, 100)


@pytest.mark.long
def test_a_hundred_kills_on_postgresql(empty_postgres_url: str, tmp_path: Path) -> None:
    assert "100 kills survived" in kill_and_recover(empty_postgres_url, tmp_path, 100)
