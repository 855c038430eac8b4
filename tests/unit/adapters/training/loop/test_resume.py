"""Killed and run again equals never killed, bit for bit; anything less is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from killed_training import assert_same, kill_at, steps_logged
from rich.console import Console

from adapters.training import training_run as run
from adapters.training.config import TrainingConfig
from adapters.training.data.jsonl import read_steps
from adapters.training.errors import CheckpointError, DivergedError, OutputError
from adapters.training.loop import checkpoint
from adapters.training.loop import trainer as loop
from server.cli.train import train as command

Configure = Callable[..., TrainingConfig]


@pytest.mark.slow
@pytest.mark.parametrize("micro", [1, 4])
def test_resumed_equals_uninterrupted(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int
) -> None:
    uninterrupted = configure(out=tmp_path / "uninterrupted", measure=0, micro_batch_samples=micro)
    run.train(uninterrupted)
    killed = configure(out=tmp_path / "killed", checkpoint_every=2, measure=0, micro_batch_samples=micro)
    kill_at(monkeypatch, killed, 5)
    assert [p.name for p in checkpoint.checkpoints(killed.out / "checkpoints")] == [
        "checkpoint-4",
        "checkpoint-2",
    ]
    assert not (killed.out / "training.json").exists()

    # Killed in the middle of a save, too: the newest checkpoint lost its optimizer and has no manifest.
    newest = killed.out / "checkpoints" / "checkpoint-4"
    (newest / checkpoint.MANIFEST).unlink()
    (newest / "optimizer.pt").unlink()

    report = run.train(killed)
    assert report.steps == 6
    assert_same(uninterrupted.out, killed.out)
    assert (uninterrupted.out / "adapter_config.json").read_bytes() == (
        killed.out / "adapter_config.json"
    ).read_bytes()
    assert steps_logged(killed.out) == [1, 2, 3, 4, 5, 6]
    assert not (killed.out / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "says"),
    [
        (2, "Interrupted. checkpoint-2 is complete: the same command goes on after step 2."),
        (
            5,
            "Interrupted. There is no checkpoint (none was due yet): the same command starts at the first step.",
        ),
        (0, "There is no checkpoint (give --checkpoint-every N to get some)"),
    ],
)
def test_an_interruption_says_what_the_same_command_does(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, every: int, says: str
) -> None:
    true_step, taken = loop.LoraTrainer.training_step, []

    def interrupted(*arguments: Any, **more: Any) -> Any:
        taken.append(1)
        if len(taken) == 4 * 8:  # in the fourth step
            raise KeyboardInterrupt
        return true_step(*arguments, **more)

    monkeypatch.setattr(loop.LoraTrainer, "training_step", interrupted)
    config = configure(checkpoint_every=every, measure=0)
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run.train(config, Console(file=out, width=400))
    assert says in out.getvalue()
    if every == 2:
        report = run.train(config, Console(file=out, width=400))
        assert f"The adapter is in {config.out}." in out.getvalue().replace("\n", "")
        record = report.document
        logged = sum(row["step_s"] for row in read_steps(config.out / "log.jsonl"))
        assert record["total_s"] >= record["train_s"] and record["train_s"] == pytest.approx(logged, abs=5)
        assert (record["steps"], record["epochs"]) == (
            6,
            pytest.approx(6 * 8 / record["data"]["samples"], rel=0.2),
        )
        card = (config.out / "README.md").read_text()
        assert f"in 6 steps ({record['epochs']:g} epochs)" in card and "epochs: 3.0" not in card


@pytest.mark.slow
def test_other_settings_are_refused(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at(monkeypatch, configure(checkpoint_every=2, measure=0), 3)
    with pytest.raises(CheckpointError, match="other settings"):
        run.train(configure(checkpoint_every=2, measure=0, batch_samples=4))


@pytest.mark.slow
def test_a_finished_folder_is_refused(configure: Configure) -> None:
    run.train(configure(max_steps=2, measure=0))
    with pytest.raises(OutputError, match="already holds"):
        run.train(configure(max_steps=2, measure=0))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_before_it_is_saved(configure: Configure) -> None:
    config = configure(learning_rate=1e30, checkpoint_every=1, measure=0, warmup_share=0.0)
    with pytest.raises(DivergedError, match=r"Step \d: the gradient is not finite"):
        run.train(config)
    for kept in checkpoint.checkpoints(config.out / "checkpoints"):
        assert checkpoint.complete_fingerprint(kept)
    assert not (config.out / "training.json").exists()


def _fake(run_dir: Path, step: int, *, fingerprint: str | None = "f") -> Path:
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_text("state")
    if fingerprint is not None:
        checkpoint.write_manifest(folder, fingerprint)
    return folder


@pytest.mark.slow
def test_the_newest_complete_checkpoint_is_chosen_by_number(tmp_path: Path) -> None:
    for step in (8, 10, 9):
        _fake(tmp_path, step)
    assert checkpoint.find_checkpoint(tmp_path, "f") == tmp_path / "checkpoint-10"
    assert checkpoint.find_checkpoint(tmp_path / "none", "f") is None


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["cut", "missing", "no manifest", "half manifest"])
def test_a_broken_checkpoint_is_skipped(tmp_path: Path, spoil: str) -> None:
    _fake(tmp_path, 2)
    bad = _fake(tmp_path, 4)
    if spoil == "cut":
        (bad / "optimizer.pt").write_text("sta")
    elif spoil == "missing":
        (bad / "optimizer.pt").unlink()
    elif spoil == "no manifest":
        (bad / checkpoint.MANIFEST).unlink()
    else:
        (bad / checkpoint.MANIFEST).write_text("{")
    assert checkpoint.find_checkpoint(tmp_path, "f") == tmp_path / "checkpoint-2"
    assert not bad.exists()


def test_the_command_ends_with_130_when_it_is_interrupted(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: TrainingConfig) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", interrupted)
    config = configure()
    arguments = ["--base", str(config.base), "--data", str(config.data[0]), "--out", str(config.out)]
    assert CliRunner().invoke(command, arguments).exit_code == 130
    monkeypatch.setattr(run, "train", lambda config: run.TrainingReport(config.out, 1, 0.0, None, {}))
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0
    assert f"Publish it: loragate adapter add TENANT NAME {config.out}" in done.stderr
