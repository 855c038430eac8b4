"""The long form of resuming: a real process, really killed, again and again, in the middle of saves too."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from adapters.artifact.digests import file_digest
from adapters.training.config import TrainingConfig
from adapters.training.loop.checkpoint import checkpoints, complete_fingerprint, step_of
from adapters.training.training_run import train

_ROOT = Path(__file__).parents[5]
_PROGRAM = """
import sys
from pathlib import Path
import torch
from adapters.training.config import TrainingConfig
from adapters.training.training_run import train
torch.set_num_threads(1)
train(eval(sys.argv[1], {"PosixPath": Path, "TrainingConfig": TrainingConfig}))
"""


def start(config: TrainingConfig) -> subprocess.Popen[bytes]:
    call = f"TrainingConfig(**{asdict(config)!r})"
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, call], cwd=_ROOT, stderr=subprocess.DEVNULL)


def steps(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.is_file() else 0


def killed_midway(process: subprocess.Popen[bytes], log: Path, rng: random.Random) -> bool:
    """Kill ``process`` some steps further than an earlier life came; False where it ended before that."""
    before = steps(log)
    while process.poll() is None:
        if steps(log) > before + 10:
            time.sleep(rng.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.01)
    return False


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_weights_are_the_same(
    configure: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    uninterrupted = configure(out=tmp_path / "uninterrupted", max_steps=48, measure=0)
    train(uninterrupted)
    killed = configure(out=tmp_path / "killed", max_steps=48, checkpoint_every=1, measure=0)
    rng = random.Random(4)
    kills = 0
    for _ in range(40):
        process = start(killed)
        try:
            kills += killed_midway(process, killed.out / "log.jsonl", rng)
        finally:
            process.kill()
        if process.wait() == 0:
            break
    assert kills >= 3
    assert (killed.out / "training.json").is_file()
    name = "adapter_model.safetensors"
    assert file_digest(killed.out / name) == file_digest(uninterrupted.out / name)


_DYING = """
import os, signal, sys
from pathlib import Path
import torch
from adapters.training.loop import callback
from adapters.training.config import TrainingConfig
from adapters.training.training_run import train
torch.set_num_threads(1)
call, where = sys.argv[1:]
saved = []


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def torn(content, path, *rest, **more):
    if "optimizer" in str(path):
        saved.append(path)
        if len(saved) == 2:
            with open(path, "wb") as file:
                file.write(b"half of it")
                file.flush()
            die()
    return true_save(content, path, *rest, **more)


def killed_at_the_manifest(path, fingerprint):
    saved.append(path)
    if len(saved) == 2:
        if where == "before the manifest":
            (path / "COMPLETE.json.part").write_text("{")
            die()
        true_write(path, fingerprint)
        die()
    true_write(path, fingerprint)


true_save, true_write = torch.save, callback.write_manifest
if where == "optimizer":
    torch.save = torn
else:
    callback.write_manifest = killed_at_the_manifest
train(eval(call, {"PosixPath": Path, "TrainingConfig": TrainingConfig}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "goes_on_from"),
    [
        ("optimizer", 2),
        pytest.param("before the manifest", 2, marks=pytest.mark.long),
        pytest.param("after the manifest", 4, marks=pytest.mark.long),
    ],
)
def test_killed_inside_a_save_the_weights_are_the_same(
    configure: Callable[..., TrainingConfig], tmp_path: Path, where: str, goes_on_from: int
) -> None:
    uninterrupted = configure(out=tmp_path / "uninterrupted", max_steps=6, measure=0)
    train(uninterrupted)
    killed = configure(out=tmp_path / "killed", max_steps=6, checkpoint_every=2, measure=0)
    call = f"TrainingConfig(**{asdict(killed)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", _DYING, call, where],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    folder = killed.out / "checkpoints"
    assert [step_of(p) for p in checkpoints(folder)] == [4, 2]
    assert max(step_of(p) for p in checkpoints(folder) if complete_fingerprint(p)) == goes_on_from
    train(killed)
    name = "adapter_model.safetensors"
    assert file_digest(killed.out / name) == file_digest(uninterrupted.out / name)
