"""Trains the demo's adapters again: held-out score, time, and forgetting with and without replay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.training.training_run import train
from benchmarks.harness.progress import ProgressReporter
from demo.chats import write_chats, write_replay
from demo.tune import config_for
from demo.world.mixture import held_out_samples

REPLAY_RATIO = 0.15
_GENERAL_TURNS = 100


def measure_demo(
    names: Iterable[str], home: Path, epochs: float | None, progress: ProgressReporter
) -> dict[str, Any]:
    """Scores (shares of exact answers), loss and training time per adapter, with and without replay."""
    general = write_chats(home / "general.jsonl", held_out_samples(7, _GENERAL_TURNS))
    replay = write_replay(home / "replay.jsonl")
    found: dict[str, Any] = {}
    for name in names:
        for kind, mixed in (("without_replay", None), ("with_replay", replay)):
            config = config_for(name, home / f"{name}-{kind}")
            config = replace(
                config,
                general=general,
                replay=mixed,
                replay_ratio=REPLAY_RATIO,
                epochs=epochs or config.epochs,
                evaluate_every=-1,
                measure=_GENERAL_TURNS,
            )
            report = train(config, progress.console)
            scores, forgetting = report.document["scores"], report.document["general"]
            found.setdefault(name, {})[kind] = {
                "score": scores["adapter"]["exact"],
                "base_score": scores["base"]["exact"],
                "held_out_loss": scores["adapter"]["loss"],
                "general_base": forgetting["base"]["exact"],
                "forgotten": forgetting["forgotten"],
                "train_s": round(report.train_s, 1),
            }
    return found
