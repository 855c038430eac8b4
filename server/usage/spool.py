"""Usage that waits for the database, as files in the data folder.

    <folder>/<writer>.<sequence>.json   one batch: a list of rows of the usage table
    <folder>/<writer>.lock              held by the process that writes them, for as long as it lives

A file is written whole (new name, fsync, rename) and removed when its batch is in the database. A crash between the
two leaves a file whose batch is sent again; the database recognises it by writer and sequence. Everything here
blocks; call it in a thread.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from adapters.models import BatchId, Usage
from adapters.store.fsync import sync_folder, write_file

logger = logging.getLogger("loragate.ledger")

_COLUMNS = tuple(field.name for field in fields(Usage))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Usage that is sent in one transaction."""

    id: BatchId
    rows: tuple[Usage, ...]


class UsageSpool:
    """The files below `folder`, which is created with the first batch; `writer` identifies this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.writer = secrets.token_hex(16)
        self._lock: BinaryIO | None = None

    def load(self) -> list[Batch]:
        """The batches of processes that have ended, in the order of sending.

        A file that cannot be read is kept under another name, and logged. Raises: OSError.
        """
        batches = []
        ended: dict[str, bool] = {}
        for path in sorted(self._folder.glob("*.json")):
            writer = path.stem.rpartition(".")[0]
            if ended.setdefault(writer, self._has_ended(writer)):
                try:
                    batches.append(_read(path))
                except (ValueError, KeyError, TypeError):
                    logger.exception("The usage in %s cannot be read; it is kept as *.damaged.", path.name)
                    path.rename(path.with_suffix(".damaged"))
        for lock in self._folder.glob("*.lock"):  # of processes that died and left no batch
            if lock.stem not in ended and self._has_ended(lock.stem):
                lock.unlink()
        return batches

    def keep(self, batch: Batch) -> None:
        """Write a batch; it replaces an earlier state of the same batch. Raises: OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while (
            self._lock is None or not os.fstat(self._lock.fileno()).st_nlink
        ):  # `load` ran between the two calls
            self._lock = self._lock_path(self.writer).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        path = self._path(batch.id)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        write_file(new, json.dumps([_as_json(row) for row in batch.rows]).encode())
        new.rename(path)
        sync_folder(self._folder)

    def remove(self, batch_id: BatchId) -> None:
        """Remove a batch that is in the database; nothing happens if it has no file. Raises: OSError."""
        self._path(batch_id).unlink(missing_ok=True)
        if batch_id.writer != self.writer and not any(self._folder.glob(f"{batch_id.writer}.*.json")):
            self._lock_path(batch_id.writer).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock; batches that are left belong to the next process."""
        if self._lock is not None:
            if not any(self._folder.glob(f"{self.writer}.*.json")):
                self._lock_path(self.writer).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _has_ended(self, writer: str) -> bool:
        try:
            with self._lock_path(writer).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _path(self, batch_id: BatchId) -> Path:
        return self._folder / f"{batch_id.writer}.{batch_id.sequence:010d}.json"

    def _lock_path(self, writer: str) -> Path:
        return self._folder / f"{writer}.lock"


def _as_json(row: Usage) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COLUMNS} | {"hour": row.hour.isoformat()}


def _read(path: Path) -> Batch:
    writer, _, sequence = path.stem.rpartition(".")
    rows = json.loads(path.read_bytes())
    usage = tuple(Usage(**row | {"hour": datetime.fromisoformat(row["hour"])}) for row in rows)
    return Batch(BatchId(writer, int(sequence)), usage)
