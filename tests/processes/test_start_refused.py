"""`loragate serve` on files, a database or a data folder that cannot be used: one sentence, exit code 1.

The command itself is started once; the other starts are forks of one process that has imported the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import write_pair
from server_process import LORAGATE

FORKS = Path(__file__).with_name("refused_starts.py")
Sentence = Callable[..., str]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("LORAGATE_", "VLLM_"))}


def last_line(code: int, said: str) -> str:
    """Of what a start wrote that must fail."""
    assert code == 1, said
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sentence() -> Iterator[Sentence]:
    """Starts a server that must fail; returns the last line that it writes."""
    # With a binding of its own, a server starts no fork server, which would import vLLM for nothing.
    variables = environment() | {"VLLM_CPU_OMP_THREADS_BIND": "auto"}
    command = [sys.executable, str(FORKS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd="/"
    ) as forks:

        def start(*args: str) -> str:
            assert forks.stdin is not None and forks.stdout is not None
            forks.stdin.write(json.dumps(["serve", "--demo", "--port", "0", *args]) + "\n")
            forks.stdin.flush()
            return last_line(**json.loads(forks.stdout.readline()))

        yield start


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


def test_a_damaged_database(tmp_path: Path, sentence: Sentence) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "loragate.db").write_bytes(b"this is no database\n" * 500)
    assert "database file is damaged" in sentence("--data-dir", str(tmp_path))


def test_the_command_on_a_read_only_folder(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    command = [LORAGATE, "serve", "--demo", "--port", "0", "--data-dir", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd="/", timeout=120)
    assert "cannot be written (Read-only file system)" in last_line(
        done.returncode, done.stdout + done.stderr
    )


@pytest.mark.parametrize("left_bytes", [0, 16384])
def test_a_full_disk(disk: Path, left_bytes: int, sentence: Sentence) -> None:
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with (disk / "filler").open("r+b") as filler:
        filler.truncate((disk / "filler").stat().st_size - left_bytes)
    told = sentence("--data-dir", str(disk))
    assert "No space left on device" in told or "is full" in told or "has room" in told


def test_a_database_that_does_not_come(tmp_path: Path, sentence: Sentence) -> None:
    flags = ["--database-url", "postgresql://user:secret@127.0.0.1:1/name", "--wait-for-database-s", "1"]
    told = sentence("--data-dir", str(tmp_path), *flags)
    assert "did not answer within --wait-for-database-s 1" in told and "secret" not in told


def test_a_certificate_that_cannot_be_used(tmp_path: Path, sentence: Sentence) -> None:
    pair = write_pair(tmp_path, password=b"secret")
    flags = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    told = sentence("--data-dir", str(tmp_path / "data"), *flags)
    assert told.startswith("loragate: --tls-key")
