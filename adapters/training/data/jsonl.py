"""The logs of a training as JSON lines, one row per step: ``log.jsonl`` and ``evaluations.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The rows of a log that have a step number; empty if there is no file.

    A line that a killed process left incomplete is skipped.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def drop_steps_after(path: Path, step: int) -> None:
    """Delete the rows of later steps, because a resumed training takes those steps again."""
    if path.is_file():
        rows = [row for row in read_steps(path) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
