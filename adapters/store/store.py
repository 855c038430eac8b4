"""The content-addressed store: the engine reads the verified copy, whatever happens to the source.

    <root>/sha256/<digest>/   adapter_config.json  adapter_model.safetensors  manifest.json   (read-only)
    <root>/staging/<random>/  one adapter being fetched; the process that fetches it holds <random>.lock

The digest is the SHA-256 of manifest.json, which has size and SHA-256 of the other two files. Everything here blocks;
call it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adapters.artifact import CONFIG, WEIGHTS
from adapters.artifact.digests import file_digest
from adapters.errors import StoreDamaged
from adapters.store.fsync import raising_store_full, sync_file, sync_folder, write_file

_MANIFEST = "manifest.json"
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact in the store."""

    digest: str  # sha256 hex
    size_bytes: int  # of the weights


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder to fetch an adapter into; it is removed at the end of the `with` block."""

    folder: Path

    @property
    def files(self) -> Path:
        """The folder for the source's files."""
        return self.folder / "files"

    @property
    def sealed(self) -> Path:
        """The folder for what `Store.seal` prepares for publication."""
        return self.folder / "sealed"


class Store:
    """A store below `root`, which is created if need be. Raises: StoreFull, OSError."""

    def __init__(self, root: Path) -> None:
        self._artifacts = root / "sha256"
        self._staging = root / "staging"
        self._damaged: set[str] = set()  # found by the last deep check
        with raising_store_full():
            self._artifacts.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """The folder of an artifact for the engine; it may not exist."""
        return self._artifacts / digest

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A new empty staging folder, removed at the end. Raises: StoreFull."""
        with raising_store_full():
            lock = self._lock_new()
        lock_path = Path(lock.name)
        staging = Staging(lock_path.with_suffix(""))
        with lock:
            try:
                with raising_store_full():
                    staging.files.mkdir(parents=True)
                    yield staging
            finally:
                shutil.rmtree(staging.folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)

    def _lock_new(self) -> BinaryIO:
        """A held lock file with a new name. It exists from before the folder is created until it is removed."""
        while True:
            lock = (self._staging / f"{secrets.token_hex(8)}.lock").open("xb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()  # `clean_staging` ran between the two calls

    def seal(self, staging: Staging, config: Mapping[str, Any]) -> StoredArtifact:
        """Build the artifact from the staged weights and the canonical configuration; it is not visible yet.

        Raises: StoreFull.
        """
        with raising_store_full():
            staging.sealed.mkdir()
            (staging.files / WEIGHTS).rename(staging.sealed / WEIGHTS)
            with (staging.sealed / WEIGHTS).open("rb") as weights:
                sync_file(weights)
            write_file(staging.sealed / CONFIG, _json(config))
            files = {name: _describe(staging.sealed / name) for name in (CONFIG, WEIGHTS)}
            manifest = _json({"format": 1, "files": files})
            write_file(staging.sealed / _MANIFEST, manifest)
        return StoredArtifact(hashlib.sha256(manifest).hexdigest(), files[WEIGHTS]["size_bytes"])

    def publish(self, staging: Staging, artifact: StoredArtifact) -> Path:
        """Move the sealed artifact to its final folder in one step; an equal one that exists stays.

        Raises: StoreFull.
        """
        place = self.path(artifact.digest)
        for path in staging.sealed.iterdir():
            path.chmod(0o444)
        with raising_store_full():
            sync_folder(staging.sealed)
            if place.exists() and not self._is_whole(artifact.digest, deep=True):
                self._remove(artifact.digest)
            try:
                staging.sealed.rename(place)
            except OSError:
                if not place.exists():
                    raise
                os.utime(place)  # in use again: `collect_garbage` skips young artifacts
            else:
                place.chmod(0o555)
            sync_folder(self._artifacts)
        self._damaged.discard(artifact.digest)
        return place

    def require(self, digest: str) -> Path:
        """The folder of an artifact with complete names and sizes and no known damage. Raises: StoreDamaged."""
        if digest in self._damaged or not self._is_whole(digest, deep=False):
            raise StoreDamaged(
                f"The stored copy of artifact {digest[:12]} is missing or damaged; add the adapter again."
            )
        return self.path(digest)

    def check(self, digests: Collection[str], *, deep: bool = False) -> tuple[str, ...]:
        """The missing or damaged ones, which `require` refuses from now on; `deep` reads and hashes every byte."""
        broken = tuple(digest for digest in digests if not self._is_whole(digest, deep=deep))
        self._damaged = (self._damaged - (set(digests) if deep else set())) | set(broken)
        return broken

    @property
    def damaged(self) -> frozenset[str]:
        """The damaged artifacts found by checks and not yet added again."""
        return frozenset(self._damaged)

    def clean_staging(self) -> int:
        """Remove the staging folders of processes that died; returns their number."""
        removed = 0
        for lock_path in self._staging.glob("*.lock"):
            with suppress(BlockingIOError, FileNotFoundError), lock_path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink()
                removed += 1
        return removed

    def collect_garbage(self, needed: Collection[str], *, min_age_s: float = _GRACE_S) -> tuple[str, ...]:
        """Remove artifacts that no version needs; returns their digests.

        An artifact that was published less than `min_age_s` ago stays: the version that needs it may be newer
        than the caller's list.
        """
        newest_s = time.time() - min_age_s
        garbage = []
        for folder in self._artifacts.iterdir():
            digest = folder.name.removeprefix(".gone-")
            if digest not in needed and folder.stat().st_mtime <= newest_s:
                garbage.append(digest)
                if folder.name == digest:
                    self._remove(digest)
                else:  # its removal was interrupted
                    _remove_tree(folder)
        return tuple(garbage)

    def _remove(self, digest: str) -> None:
        gone = self._artifacts / f".gone-{digest}"
        if gone.exists():
            _remove_tree(gone)
        self.path(digest).rename(gone)  # renamed first, so that a partly removed artifact is never visible
        _remove_tree(gone)

    def _is_whole(self, digest: str, *, deep: bool) -> bool:
        folder = self.path(digest)
        try:
            manifest = (folder / _MANIFEST).read_bytes()
            if hashlib.sha256(manifest).hexdigest() != digest:
                return False
            files = json.loads(manifest)["files"]
            sizes_fit = all((folder / name).stat().st_size == files[name]["size_bytes"] for name in files)
            return sizes_fit and (not deep or all(_describe(folder / name) == files[name] for name in files))
        except OSError:
            return False


def _describe(path: Path) -> dict[str, Any]:
    return {"sha256": file_digest(path), "size_bytes": path.stat().st_size}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def _remove_tree(folder: Path) -> None:
    folder.chmod(0o755)
    shutil.rmtree(folder)
