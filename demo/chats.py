"""Writes samples of the base model's own training mixture as files for the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from demo.world.mixture import WorldSample, training_samples

REPLAY_CHATS = 1500


def write_chats(path: Path, samples: Iterable[WorldSample]) -> Path:
    """Write one chat per line."""
    rows = ({"messages": list(s.messages)} | ({"tools": list(s.tools)} if s.tools else {}) for s in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_replay(path: Path) -> Path:
    """Write replay chats, which keep the base model's abilities during training; always the same chats."""
    samples = training_samples(11, 2 * REPLAY_CHATS)
    return write_chats(path, (sample for sample in samples if sample.messages))
