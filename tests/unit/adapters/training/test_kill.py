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

from adapters.digests import file_digest
from adapters.training.config import TrainingConfig
from adapters.training.run import train

_ROOT = Path(__file__).parents[4]
_PROGRAM = """
import sys
from pathlib import Path
import torch
from adapters.training.config import TrainingConfig
from adapters.training.run import train
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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_weights_are_the_same(
    configure: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    whole = configure(out=tmp_path / "whole", max_steps=48, measure=0)
    train(whole)
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
    assert file_digest(killed.out / name) == file_digest(whole.out / name)
