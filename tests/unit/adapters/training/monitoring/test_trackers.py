"""TensorBoard, Weights & Biases without a connection, and the plots."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import PartialState
from rich.console import Console
from transformers.integrations import integration_utils

from adapters.training.config import TrainingConfig
from adapters.training.errors import IntegrationError
from adapters.training.evaluation.generations import Generation
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring.anomaly_report import AnomalyReport
from adapters.training.monitoring.callbacks import create_callbacks
from adapters.training.monitoring.plots import draw
from adapters.training.monitoring.trackers import TensorBoard, Wandb, trackers
from adapters.training.training_run import train

PNG = b"\x89PNG\r\n\x1a\n"


ANSWERED = Evaluation(2, 0.25, generations=(Generation("user: a|b", "yes", "no\nnever", False),))


def step(number: int, loss: float = 0.5) -> TrainingStep:
    return TrainingStep(number, 0.1, loss, 1.5, 1e-3, 100, 0.25)


def test_tensorboard_reads_what_was_written(
    tmp_path: Path, send: Callable, send_step: Callable, send_evaluation: Callable
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    send(board, "on_train_begin")
    send_step(board, step(1, 0.75))
    send_step(board, step(2, 0.5))
    send_evaluation(board, ANSWERED)
    send(board, "on_train_end", 2)
    send(board, "on_train_end", 2)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(1, 0.75), (2, 0.5)]
    assert [(e.step, e.value) for e in read.Scalars("eval/held_out_loss")] == [(2, 0.25)]
    (shown,) = read.Tensors("eval/generations/text_summary")
    assert b"| prompt | expected | answer | right |" in shown.tensor_proto.string_val[0]
    assert b"| user: a\\|b | yes | no<br>never | False |" in shown.tensor_proto.string_val[0]
    assert {"train/grad_norm", "train/learning_rate", "train/tokens_per_s"} <= set(read.Tags()["scalars"])


def test_tensorboard_hides_steps_that_are_taken_again(
    tmp_path: Path, send: Callable, send_step: Callable
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, losses in ((0, {1: 0.9, 2: 0.8, 3: 0.7}), (1, {2: 0.5})):
        if start:
            time.sleep(1.1)  # event files are named by the second
        board = TensorBoard(tmp_path)
        send(board, "on_train_begin", start)
        for number, loss in losses.items():
            send_step(board, step(number, loss))
        send(board, "on_train_end")
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in read.Scalars("train/loss")] == [1, 2]


@pytest.mark.slow
def test_wandb_keeps_the_run_on_this_machine(
    configure: Callable[..., TrainingConfig],
    send: Callable,
    send_step: Callable,
    send_evaluation: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")  # transformers would send the weights, too
    config = configure(wandb="project-p")
    config.out.mkdir()
    (tracker,) = trackers(config)
    assert isinstance(tracker, Wandb)
    send(tracker, "on_train_begin")
    send_step(tracker, step(1))
    send_evaluation(tracker, replace(ANSWERED, step=1))
    send(tracker, "on_train_end", 1)
    send(tracker, "on_train_end", 1)
    (run,) = (config.out / "wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    # W&B's own process writes it; on a busy machine some time after the run is finished.
    deadline = time.monotonic() + 60
    while b"held_out_loss" not in record.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    written = record.read_bytes()
    assert b"train/loss" in written and b"eval/held_out_loss" in written and b"project-p" in written
    (table,) = (run / "files" / "media" / "table" / "eval").glob("generations_*.table.json")
    assert json.loads(table.read_text())["data"] == [["user: a|b", "yes", "no\nnever", False]]
    # Its configuration is ours, without the folders that transformers would add.
    assert b"batch_samples" in written and b"output_dir" not in written
    assert str(config.base).encode() not in written


@pytest.mark.slow
def test_mlflow_keeps_the_run_on_this_machine(
    configure: Callable[..., TrainingConfig],
    send: Callable,
    send_step: Callable,
    send_evaluation: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = configure(mlflow="support")
    config.out.mkdir()
    (tracker,) = trackers(config)
    send(tracker, "on_train_begin")
    send_step(tracker, step(1, 0.75))
    send_evaluation(tracker, replace(ANSWERED, step=1))
    send(tracker, "on_train_end", 1)
    send(tracker, "on_train_end", 1)
    assert not mlflow.is_tracking_uri_set()
    client = mlflow.MlflowClient(f"sqlite:///{config.out / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("support").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.75)]
    assert run.data.metrics["eval_held_out_loss"] == 0.25
    assert run.data.params["rank"] == "4" and str(config.base) not in run.data.params.values()
    (table,) = (config.out / "mlartifacts").rglob("generations-1.json")
    assert json.loads(table.read_text())["data"] == [["user: a|b", "yes", "no\nnever", False]]


@pytest.mark.parametrize(
    ("setting", "package"),
    [({"wandb": "p"}, "wandb"), ({"tensorboard": True}, "tensorboard"), ({"mlflow": "p"}, "mlflow")],
)
def test_a_missing_tracker_stops_before_the_training(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch, setting: dict, package: str
) -> None:
    monkeypatch.setattr(integration_utils, f"is_{package}_available", lambda: False)
    with pytest.raises(IntegrationError, match=f"pip install {package}`, or leave --{package} out"):
        train(configure(**setting))


@pytest.mark.slow
def test_a_training_draws_its_curves_and_fills_its_trackers(
    configure: Callable[..., TrainingConfig],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = configure(max_steps=3, tensorboard=True)
    train(config)
    for name in ("loss.png", "grad_norm.png"):
        assert (config.out / name).read_bytes().startswith(PNG)
    read = EventAccumulator(str(config.out / "tensorboard")).Reload()
    log = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert [e.value for e in read.Scalars("train/loss")] == pytest.approx([row["loss"] for row in log])
    assert [e.value for e in read.Scalars("train/tokens_per_s")] == pytest.approx(
        [row["tokens_per_s"] for row in log], rel=1e-3
    )
    assert [e.step for e in read.Scalars("eval/held_out_loss")] == [3]


def test_only_the_first_process_reports(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()

    def callbacks() -> int:
        console = Console(quiet=True)
        return len(create_callbacks(config, console, AnomalyReport(console, config)))

    assert callbacks() == 4
    monkeypatch.setattr(PartialState, "is_main_process", False)
    assert callbacks() == 0


def test_nothing_is_drawn_without_steps(tmp_path: Path) -> None:
    assert draw(tmp_path, 1.0) == []
    (tmp_path / "log.jsonl").write_text(
        json.dumps(step(1).as_dict() | {"loss": None, "grad_norm": 0.0}) + "\n"
    )
    assert all(path.is_file() for path in draw(tmp_path, 1.0))
