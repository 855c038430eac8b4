"""`loragate serve` on a database or a data folder that cannot be used: one sentence, exit code 1."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import LORAGATE


def sentence(*args: str) -> str:
    """The last line of a start that must fail."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LORAGATE_", "VLLM_"))}
    command = [LORAGATE, "serve", "--demo", "--port", "0", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "loragate.db").write_bytes(b"this is no database\n" * 500)
    assert "database file is damaged" in sentence("--data-dir", str(tmp_path))


def test_a_read_only_folder(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be written (Read-only file system)" in sentence("--data-dir", str(disk))


@pytest.mark.parametrize("left_bytes", [0, 16384])
def test_a_full_disk(disk: Path, left_bytes: int) -> None:
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with (disk / "filler").open("r+b") as filler:
        filler.truncate((disk / "filler").stat().st_size - left_bytes)
    told = sentence("--data-dir", str(disk))
    assert "No space left on device" in told or "is full" in told or "has room" in told


def test_a_database_that_does_not_come(tmp_path: Path) -> None:
    flags = ["--database-url", "postgresql://user:secret@127.0.0.1:1/name", "--wait-for-database-s", "1"]
    told = sentence("--data-dir", str(tmp_path), *flags)
    assert "did not answer within --wait-for-database-s 1" in told and "secret" not in told
