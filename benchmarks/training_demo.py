"""The demo's adapters trained anew: held-out score, time, and what is forgotten with and without replay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.training.run import train
from benchmarks.progress import Bars
from demo.tune import config_for
from demo.world.mixture import Sample, held_out_samples, training_samples

REPLAY_RATIO = 0.15
_GENERAL_TURNS = 100
_REPLAY_CHATS = 1500


def measure_demo(names: Iterable[str], home: Path, epochs: float | None, bars: Bars) -> dict[str, Any]:
    """Per adapter, with and without replay: `score`, `forgotten` (shares of exact answers), `loss`, `train_s`."""
    general = write_chats(home / "general.jsonl", held_out_samples(7, _GENERAL_TURNS))
    talk = (sample for sample in training_samples(11, 2 * _REPLAY_CHATS) if sample.messages)
    replay = write_chats(home / "replay.jsonl", talk)
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
            report = train(config, bars.console)
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


def write_chats(path: Path, samples: Iterable[Sample]) -> Path:
    """Samples of the base's own mixture as the trainer reads chats."""
    rows = ({"messages": list(s.messages)} | ({"tools": list(s.tools)} if s.tools else {}) for s in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
