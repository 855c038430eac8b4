"""Samples of the base's own mixture as files that the trainer reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from demo.world.mixture import WorldSample, training_samples

REPLAY_CHATS = 1500


def write_chats(path: Path, samples: Iterable[WorldSample]) -> Path:
    """One chat per line."""
    rows = ({"messages": list(s.messages)} | ({"tools": list(s.tools)} if s.tools else {}) for s in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_replay(path: Path) -> Path:
    """What the base could do before an adapter was trained; always the same chats."""
    samples = training_samples(11, 2 * REPLAY_CHATS)
    return write_chats(path, (sample for sample in samples if sample.messages))
