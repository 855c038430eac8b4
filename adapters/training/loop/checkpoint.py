"""Checkpoints that are either complete or ignored.

transformers writes a checkpoint file by file, and resumes without a warning from one that lacks its optimizer.
So a manifest with the hash of every file is written last. A training resumes only from a checkpoint that has a
manifest and whose files still match it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from adapters.artifact.digests import file_digest
from adapters.store.fsync import sync_file, sync_folder
from adapters.training.errors import CheckpointError

MANIFEST = "COMPLETE.json"
_PREFIX = "checkpoint-"


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
        with path.open("rb") as file:
            sync_file(file)
    manifest = {
        "fingerprint": fingerprint,
        "files": {str(p.relative_to(checkpoint)): file_digest(p) for p in files},
    }
    partial = checkpoint / f"{MANIFEST}.part"
    with partial.open("wb") as file:
        file.write(json.dumps(manifest, indent=2, sort_keys=True).encode())
        sync_file(file)
    partial.replace(checkpoint / MANIFEST)
    sync_folder(checkpoint)


def complete_fingerprint(checkpoint: Path) -> str | None:
    """The fingerprint in the manifest of ``checkpoint``; None if there is none or a file differs from it."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        whole = all(file_digest(checkpoint / name) == digest for name, digest in manifest["files"].items())
        return str(manifest["fingerprint"]) if whole else None
    except (FileNotFoundError, IsADirectoryError, AttributeError, KeyError, TypeError, ValueError):
        return None


def interruption_notice(run_dir: Path, checkpoint_every: int) -> str:
    """What an interrupted training left in ``run_dir``, and what the same command would do next."""
    for checkpoint in checkpoints(run_dir):
        if complete_fingerprint(checkpoint) is not None:
            return (
                f"Interrupted. {checkpoint.name} is complete: the same command goes on after step "
                f"{step_of(checkpoint)}."
            )
    why = "none was due yet" if checkpoint_every else "give --checkpoint-every N to get some"
    return f"Interrupted. There is no checkpoint ({why}): the same command starts at the first step."


def find_checkpoint(run_dir: Path, fingerprint: str) -> Path | None:
    """The newest complete checkpoint of exactly this configuration; None if there is none.

    Newer incomplete checkpoints are deleted: their steps are taken again.

    Raises:
        CheckpointError: the newest complete checkpoint belongs to another configuration, data or base.
    """
    for checkpoint in checkpoints(run_dir):
        found = complete_fingerprint(checkpoint)
        if found is None:
            shutil.rmtree(checkpoint)
            continue
        if found != fingerprint:
            raise CheckpointError(
                f"{checkpoint.name} was made with other settings, data or base model. Repeat the settings it "
                "was made with, or train into another folder."
            )
        return checkpoint
    return None
