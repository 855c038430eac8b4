"""TensorBoard, Weights & Biases without a connection, and the plots."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.training.config import TrainingConfig
from adapters.training.errors import WatchingError
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import Step
from adapters.training.monitoring.plots import draw
from adapters.training.monitoring.trackers import TensorBoard, Wandb
from adapters.training.train import train

PNG = b"\x89PNG\r\n\x1a\n"


def step(number: int, loss: float = 0.5) -> Step:
    return Step(number, 0.1, loss, 1.5, 1e-3, 100, 0.25)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.begin(0, 10)
    board.take(step(1, 0.75))
    board.take(step(2, 0.5))
    board.evaluated(Evaluation(2, 0.25))
    board.end()
    board.end()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(1, 0.75), (2, 0.5)]
    assert [(e.step, e.value) for e in read.Scalars("eval/held_out_loss")] == [(2, 0.25)]
    assert {"train/grad_norm", "train/learning_rate", "train/tokens_per_s"} <= set(read.Tags()["scalars"])


@pytest.mark.slow
def test_wandb_keeps_the_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    tracker = Wandb(tmp_path, project="p", online=False, name="run", config={"rank": 4})
    tracker.begin(0, 10)
    tracker.take(step(1))
    tracker.evaluated(Evaluation(1, 0.25))
    tracker.end()
    tracker.end()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    # W&B's own process writes it; on a busy machine some time after the run was finished.
    deadline = time.monotonic() + 60
    while b"held_out_loss" not in record.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"train/loss" in record.read_bytes() and b"held_out_loss" in record.read_bytes()


def test_a_missing_tracker_is_told_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_: object) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(WatchingError, match="pip install wandb, or leave --wandb out"):
        Wandb(Path(), project="p", online=False, name="n", config={})


@pytest.mark.slow
def test_a_training_draws_its_curves_and_fills_its_trackers(
    configure: Callable[..., TrainingConfig],
) -> None:
    config = configure(max_steps=3, tensorboard=True)
    train(config)
    for name in ("loss.png", "grad_norm.png"):
        assert (config.out / name).read_bytes().startswith(PNG)
    assert list((config.out / "tensorboard").glob("events.*"))


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert draw(tmp_path, 1.0) == []
    (tmp_path / "log.jsonl").write_text(
        json.dumps(step(1).as_dict() | {"loss": None, "grad_norm": 0.0}) + "\n"
    )
    assert all(path.is_file() for path in draw(tmp_path, 1.0))
