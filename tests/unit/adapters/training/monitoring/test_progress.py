"""The progress that people and programs see."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adapters.training.data.jsonl import read_steps
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring import progress
from adapters.training.monitoring.progress import JsonLog, MeasuringProgress, ProgressBar, time_left

STEP = TrainingStep(step=3, epoch=0.3, loss=0.5, grad_norm=1.5, learning_rate=1e-3, tokens=100, step_s=0.25)
LINE = "loss 0.5000  p 0.607  grad 1.50  lr 1.0e-03  400 tok/s"


def test_the_bar_shows_everything_on_a_terminal(
    send: Callable, send_step: Callable, send_evaluation: Callable
) -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=True, width=160))
    send(bar, "on_train_begin")
    send_step(bar, STEP)
    send_evaluation(bar, Evaluation(3, 0.25))
    send(bar, "on_train_end", 3)
    send(bar, "on_train_end", 3)
    shown = out.getvalue()
    assert "3/10" in shown and LINE in shown
    assert "step 3: held-out loss 0.2500  perplexity 1.284" in shown


def test_a_file_gets_a_line_after_the_first_step_and_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch, send: Callable, send_step: Callable
) -> None:
    out = io.StringIO()
    now = 100.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    bar = ProgressBar(Console(file=out, force_terminal=False, width=120))
    send(bar, "on_train_begin", 2)
    now = 104.0
    send_step(bar, STEP)  # the third of ten, the first of this process
    assert out.getvalue() == f"step 3/10  {LINE}  0:00:28 left\n"
    now = 133.0
    send_step(bar, replace(STEP, step=4))
    assert out.getvalue().count("\n") == 1
    now = 134.0
    send_step(bar, replace(STEP, step=6))
    assert out.getvalue().endswith(f"step 6/10  {LINE}  0:00:34 left\n")


def test_measuring_shows_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    with MeasuringProgress(
        Console(file=out, force_terminal=False, width=120), "measuring turns", 80
    ) as answered:
        now = 10.0
        answered(20)
        now = 40.0
        answered(20)
    assert out.getvalue() == "measuring turns: 40/80  0:00:40 left\n"
    terminal = io.StringIO()
    with MeasuringProgress(
        Console(file=terminal, force_terminal=True, width=120), "measuring turns", 80
    ) as answered:
        now = 50.0
        answered(40)
    assert "40/80" in terminal.getvalue()
    assert time_left(0, 80, 5.0) == ""
    assert time_left(1, 3601, 1.0) == "1:00:00 left"


def test_a_step_is_one_line_of_json(tmp_path: Path, send: Callable, send_step: Callable) -> None:
    log = JsonLog(tmp_path)
    send(log, "on_train_begin")
    send_step(log, STEP)
    send_step(log, replace(STEP, step=4, loss=math.nan))
    send(log, "on_log", 4, logs={"train_runtime": 1.0})
    first, second = (json.loads(line) for line in log.steps.read_text().splitlines())
    assert first == {
        "step": 3, "epoch": 0.3, "loss": 0.5, "right_token_probability": pytest.approx(0.60653, abs=1e-5),
        "grad_norm": 1.5, "learning_rate": 1e-3, "tokens": 100, "tokens_per_s": 400.0, "step_s": 0.25,
    }  # fmt: skip
    assert (second["loss"], second["right_token_probability"]) == (None, None)


def test_an_evaluation_is_one_line_of_json(tmp_path: Path, send_evaluation: Callable) -> None:
    log = JsonLog(tmp_path)
    send_evaluation(log, Evaluation(3, 0.25, base_loss=0.5))
    (row,) = read_steps(log.evaluations)
    assert (row["step"], row["held_out_loss"], row["base"]) == (3, 0.25, {"held_out_loss": 0.5})
    assert not log.steps.exists()


def test_a_resumed_log_forgets_the_steps_that_are_taken_again(tmp_path: Path, send: Callable) -> None:
    log = JsonLog(tmp_path)
    log.steps.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    log.evaluations.write_text('{"step": 2}\n{"step": 3}\n')
    send(log, "on_train_begin", 2)
    assert [row["step"] for row in read_steps(log.steps)] == [1, 2]
    assert log.evaluations.read_text() == '{"step": 2}\n'
