"""The progress bar and the log of steps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapters.training.errors import DivergedError
from adapters.training.progress import ProgressBar, StepLog


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


def state_at(step: int) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10, epoch=step / 10)


LOGS = {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3}


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_shows_on_terminals_only(arguments: TrainingArguments, terminal: bool) -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=terminal, width=120))
    bar.on_train_begin(arguments, state_at(0), TrainerControl())
    bar.on_log(arguments, state_at(3), TrainerControl(), logs=LOGS)
    bar.on_log(arguments, state_at(3), TrainerControl(), logs={"train_runtime": 1})
    bar.on_train_end(arguments, state_at(10), TrainerControl())
    bar.stop()
    assert ("loss 0.5000  p 0.607  grad 1.50" in out.getvalue()) is terminal


def test_a_step_is_one_line(arguments: TrainingArguments, tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl")
    log.on_train_begin(arguments, state_at(0), TrainerControl())
    log.on_log(arguments, state_at(1), TrainerControl(), logs=LOGS)
    log.on_log(arguments, state_at(1), TrainerControl(), logs={"train_runtime": 1})
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["step"], row["loss"], row["grad_norm"], row["learning_rate"]) == (1, 0.5, 1.5, 1e-3)
    assert row["right_token_probability"] == pytest.approx(0.60653, abs=1e-5)


def test_a_resumed_log_forgets_what_is_done_again(arguments: TrainingArguments, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    StepLog(path).on_train_begin(arguments, state_at(2), TrainerControl())
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("broken", [{"loss": float("nan")}, {"grad_norm": float("inf")}])
def test_a_broken_step_is_logged_and_stops(
    arguments: TrainingArguments, tmp_path: Path, broken: dict
) -> None:
    log = StepLog(tmp_path / "log.jsonl")
    with pytest.raises(DivergedError, match="Step 4"):
        log.on_log(arguments, state_at(4), TrainerControl(), logs=LOGS | broken)
    assert '"step": 4' in (tmp_path / "log.jsonl").read_text()
