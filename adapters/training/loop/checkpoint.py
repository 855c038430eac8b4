"""Checkpoints that are either whole or passed over.

transformers writes a checkpoint file by file and continues, without a word, from one whose optimizer is
missing. So a manifest with the hash of every file is written last, and only a checkpoint that has one,
and whose files still match it, is continued from.
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
    """Checkpoint folders in ``run_dir``, newest first, whole or not."""
    found = [p for p in run_dir.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which ``checkpoint`` was taken."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Declare ``checkpoint`` whole: write its manifest, atomically, after everything else is on disk."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    for path in files:
        _sync(path)
    manifest = {
        "fingerprint": fingerprint,
        "files": {str(p.relative_to(checkpoint)): file_digest(p) for p in files},
    }
    scratch = checkpoint / f"{MANIFEST}.part"
    scratch.write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    _sync(scratch)
    scratch.replace(checkpoint / MANIFEST)
    _sync(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether ``checkpoint`` was sealed and every file is still what it was then."""
    manifest = _manifest(checkpoint)
    if manifest is None:
        return False
    return all(
        (checkpoint / name).is_file() and file_digest(checkpoint / name) == digest
        for name, digest in manifest.files.items()
    )


def resume_point(run_dir: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of this very configuration; None where none was taken.

    Unfinished checkpoints newer than it are deleted: their steps will be taken again.

    Raises:
        CheckpointError: the newest whole checkpoint belongs to another configuration, data or base.
    """
    for checkpoint in checkpoints(run_dir):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)
            continue
        manifest = _manifest(checkpoint)
        if manifest is None or manifest.fingerprint != fingerprint:
            raise CheckpointError(
                f"{checkpoint.name} was made with other settings, data or base model. Repeat the settings it "
                "was made with, or train into another folder."
            )
        return checkpoint
    return None


def _manifest(checkpoint: Path) -> _Manifest | None:
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
