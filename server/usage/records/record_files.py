"""The files of records: written in the data folder, and moved to their place when they are full or old.

    <data folder>/records/<tenant>/20261129T184500Z-<8 hex digits>.jsonl.part   grows; every second on the disk
    <place>/<tenant>/20261129T184500Z-<8 hex digits>.jsonl                      complete

A bucket cannot append, so only complete files go there. What a killed server has left is moved by its next start.
Everything here blocks: call it in one thread.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from adapters.sources.remote import connect, remote_errors
from adapters.store.fsync import CHUNK_BYTES

#: A file is complete when it has this size or age.
FILE_BYTES, FILE_AGE_S = 16 << 20, 300.0
#: What waits in the data folder while its place cannot be reached; beyond it, lines are lost.
WAITING_BYTES = 256 << 20
_PART, _DONE = ".jsonl.part", ".jsonl"
_TIME = "%Y%m%dT%H%M%SZ"


class PlaceUnavailable(Exception):
    """The place of the records cannot be reached or written."""


@dataclass(slots=True)
class _Part:
    """A file that grows."""

    path: Path
    begun_at: float
    size_bytes: int = 0


class RecordFiles:
    """Writes lines, completes files, moves them, and removes old ones.

    Args:
        url: the place: a folder, or what fsspec knows, such as `s3://bucket/folder`.
        folder: in the data folder; one server uses it at a time.
        keep_days: complete files are removed after this time.
        max_bytes: of one tenant's complete files; the oldest ones beyond are removed.
        clock: seconds since 1970.

    Raises: SourceRefused: the package of the place's file system is not installed.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        keep_days: int,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place, self._root = connect(url.rstrip("/"))
        self._errors: tuple[type[Exception], ...] = (*remote_errors(), ValueError)
        self._folder = folder
        self._keep_s, self._max_bytes = keep_days * 86_400, max_bytes
        self._clock = clock
        self._parts: dict[str, _Part] = {}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.glob(f"*/*{_PART}"):
            left.rename(left.with_name(left.name.removesuffix(_PART) + _DONE))

    def write(self, tenant: str, lines: Sequence[bytes]) -> bool:
        """Append lines to the tenant's file; False: there is no room in the data folder. Raises: OSError."""
        data = b"".join(lines)
        if self.waiting_bytes() + len(data) > WAITING_BYTES:
            return False
        part = self._parts.get(tenant) or self._begin(tenant)
        with part.path.open("ab") as file:
            file.write(data)
        part.size_bytes += len(data)
        return True

    def waiting_bytes(self) -> int:
        """What lies in the data folder."""
        return sum(file.stat().st_size for file in self._folder.glob("*/*"))

    def complete(self, *, everything: bool = False) -> None:
        """Complete the files that are full or old, or all."""
        for tenant, part in list(self._parts.items()):
            is_due = part.size_bytes >= FILE_BYTES or self._clock() - part.begun_at >= FILE_AGE_S
            if is_due or everything:
                part.path.rename(part.path.with_name(part.path.name.removesuffix(_PART) + _DONE))
                del self._parts[tenant]

    def publish(self) -> int:
        """Move the complete files to their place; returns how many. Raises: PlaceUnavailable."""
        files = sorted(self._folder.glob(f"*/*{_DONE}"))
        for file in files:
            with self._translated():
                self._put(file)
            file.unlink()
        return len(files)

    def remove_old(self) -> int:
        """Remove what is older or more than may be kept; returns how many files. Raises: PlaceUnavailable."""
        removed = 0
        with self._translated():
            for tenant in self._listed(self._root, "directory"):
                kept_bytes = 0
                files = self._listed(tenant["name"], "file")
                for file in sorted(files, key=lambda file: str(file["name"]), reverse=True):
                    begun_at = _begun_at(str(file["name"]))
                    if begun_at is None:  # not ours
                        continue
                    kept_bytes += int(file["size"] or 0)
                    if kept_bytes > self._max_bytes or self._clock() - begun_at > self._keep_s:
                        with suppress(FileNotFoundError):  # another server was quicker
                            self._place.rm_file(file["name"])
                        removed += 1
        return removed

    def _begin(self, tenant: str) -> _Part:
        now = self._clock()
        folder = self._folder / tenant
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"{datetime.fromtimestamp(now, UTC).strftime(_TIME)}-{uuid4().hex[:8]}{_PART}"
        part = self._parts[tenant] = _Part(folder / name, now)
        return part

    def _put(self, file: Path) -> None:
        """Copy a file to its place, where it appears whole."""
        folder = f"{self._root}/{file.parent.name}"
        if isinstance(local := self._local(folder), Path):
            local.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = f"{folder}/.{file.name}.{uuid4().hex[:8]}" if local else f"{folder}/{file.name}"
        with file.open("rb") as source, self._place.open(written, "wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK_BYTES)
        if local:
            self._place.mv(written, f"{folder}/{file.name}")

    def _local(self, folder: str) -> Path | None:
        """The folder, where the place is on this machine: there a file is seen while it is written."""
        protocol = self._place.protocol
        names = (protocol,) if isinstance(protocol, str) else protocol
        return Path(folder) if "file" in names else None

    def _listed(self, folder: str, kind: str) -> Iterator[dict[str, Any]]:
        try:
            entries = self._place.ls(folder, detail=True)
        except FileNotFoundError:
            return
        yield from (entry for entry in entries if entry["type"] == kind)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise PlaceUnavailable(f"{type(error).__name__}: {error}") from error


def _begun_at(name: str) -> float | None:
    """The time in a file's name; None: it is no file of ours."""
    stem = PurePosixPath(name).name
    if not stem.endswith(_DONE):
        return None
    try:
        return datetime.strptime(stem.partition("-")[0], _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
