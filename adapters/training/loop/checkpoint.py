"""Checkpoints that are either complete or ignored.

transformers writes a checkpoint file by file, and resumes without a warning from one that lacks its optimizer.
So a manifest with the hash of every file is written last. A training resumes only from a checkpoint that has a
manifest and whose files still match it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from adapters.artifact.digests import file_digest
from adapters.training.errors import CheckpointError

MANIFEST = "COMPLETE.json"
_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class _Manifest:
    fingerprint: str
    files: dict[str, str]  # name: sha256


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders in ``run_dir``, newest first, complete or not."""
    found = [p for p in run_dir.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which ``checkpoint`` was saved."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def write_manifest(checkpoint: Path, fingerprint: str) -> None:
    """Mark ``checkpoint`` as complete: write its manifest atomically, after all other files are on disk."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    for path in files:
        _sync(path)
    manifest = {
        "fingerprint": fingerprint,
        "files": {str(p.relative_to(checkpoint)): file_digest(p) for p in files},
    }
    partial = checkpoint / f"{MANIFEST}.part"
    partial.write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    _sync(partial)
    partial.replace(checkpoint / MANIFEST)
    _sync(checkpoint)


def is_complete(checkpoint: Path) -> bool:
    """Whether ``checkpoint`` has a manifest and every file still matches it."""
    manifest = _read_manifest(checkpoint)
    if manifest is None:
        return False
    return all(
        (checkpoint / name).is_file() and file_digest(checkpoint / name) == digest
        for name, digest in manifest.files.items()
    )


def find_checkpoint(run_dir: Path, fingerprint: str) -> Path | None:
    """The newest complete checkpoint of exactly this configuration; None if there is none.

    Newer incomplete checkpoints are deleted: their steps are taken again.

    Raises:
        CheckpointError: the newest complete checkpoint belongs to another configuration, data or base.
    """
    for checkpoint in checkpoints(run_dir):
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint)
            continue
        manifest = _read_manifest(checkpoint)
        if manifest is None or manifest.fingerprint != fingerprint:
            raise CheckpointError(
                f"{checkpoint.name} was made with other settings, data or base model. Repeat the settings it "
                "was made with, or train into another folder."
            )
        return checkpoint
    return None


def _read_manifest(checkpoint: Path) -> _Manifest | None:
    try:
        raw = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return _Manifest(str(raw["fingerprint"]), dict(raw["files"]))
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
