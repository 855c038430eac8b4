"""Versions of the demo's adapter `acme-support` whose quality is known: trained for longer, or on wrong answers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import demo
from adapters.training.config import TrainingConfig
from adapters.training.export.adapter_folder import REPORT_NAME
from adapters.training.training_run import train
from benchmarks.harness.progress import ProgressReporter
from demo.tune import config_for

ADAPTER = "acme-support"
#: Optimizer steps of the version that serves, and of each version that is trained from it.
FIRST_STEPS, MORE_STEPS = 150, 20
#: The learning rate of the versions that go on, as a part of the demo's.
_MORE_RATE = 0.2


def train_first(home: Path, progress: ProgressReporter) -> Path:
    """The version that serves at first: it has learned a part of what the chats have. Returns its folder."""
    return _trained(_config(home / "first", steps=FIRST_STEPS, seed=0), progress)


def train_better(first: Path, home: Path, seed: int, progress: ProgressReporter) -> Path:
    """A version that was trained for longer on the same chats, in another order."""
    return _trained(
        _continued(_config(home / f"better-{seed}", steps=MORE_STEPS, seed=seed), first), progress
    )


def train_worse(first: Path, home: Path, seed: int, progress: ProgressReporter) -> Path:
    """A version that was trained for as long on the same chats with each other's answers."""
    rows = [json.loads(line) for line in demo.ADAPTERS[ADAPTER].data.read_text("utf-8").splitlines()]
    data = home / f"shuffled-{seed}.jsonl"
    shuffled = shuffle_answers(rows, seed)
    data.write_text("".join(json.dumps(row) + "\n" for row in shuffled), encoding="utf-8")
    config = _continued(_config(home / f"worse-{seed}", steps=MORE_STEPS, seed=seed), first)
    return _trained(replace(config, data=(data,)), progress)


def shuffle_answers(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same conversations, in which each answer of the assistant is the answer to another question."""
    places = [
        (at, turn)
        for at, row in enumerate(rows)
        for turn, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    ]
    answers = [rows[at]["messages"][turn]["content"] for at, turn in places]
    random.Random(seed).shuffle(answers)
    found = [{**row, "messages": [dict(message) for message in row["messages"]]} for row in rows]
    for (at, turn), answer in zip(places, answers, strict=True):
        found[at]["messages"][turn]["content"] = answer
    return found


def _config(out: Path, *, steps: int, seed: int) -> TrainingConfig:
    """The demo's recipe; nothing is measured after it, because the server does that."""
    return replace(config_for(ADAPTER, out), max_steps=steps, seed=seed, measure=0, keep="last")


def _continued(config: TrainingConfig, first: Path) -> TrainingConfig:
    return replace(config, start_from=first, learning_rate=_MORE_RATE * config.learning_rate)


def _trained(config: TrainingConfig, progress: ProgressReporter) -> Path:
    """The folder of the trained adapter; one that an interrupted run has finished is used as it is."""
    if not (config.out / REPORT_NAME).exists():
        train(config, progress.console)
    return config.out
