"""The content-addressed store: the engine reads the verified copy, whatever happens to the source.

    <root>/sha256/<digest>/   adapter_config.json  adapter_model.safetensors  manifest.json   (read-only)
    <root>/staging/<random>/  one adapter being fetched; the process that fetches it holds <random>.lock

The digest is the SHA-256 of manifest.json, which has size and SHA-256 of the other two files. Everything here blocks;
call it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adapters.artifact import CONFIG, WEIGHTS
from adapters.errors import StoreDamaged
from adapters.store.content import MANIFEST, content_bytes, describe, is_whole, json_bytes, remove_tree
from adapters.store.fsync import raising_store_full, sync_file, sync_folder, write_file

_GONE = ".gone-"  # prefix of a folder that is being removed
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
        self._changing = threading.Lock()  # no artifact is removed while it is published again
        with raising_store_full():
            self._artifacts.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(exist_ok=True)

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
            write_file(staging.sealed / CONFIG, json_bytes(config))
            files = {name: describe(staging.sealed / name) for name in (CONFIG, WEIGHTS)}
            manifest = json_bytes({"format": 1, "files": files})
            write_file(staging.sealed / MANIFEST, manifest)
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
            if place.exists() and not is_whole(place, artifact.digest, deep=True):
                self._remove(artifact.digest)
            # `collect_garbage` skips young artifacts, also those that are in use again.
            os.utime(staging.sealed)
            with self._changing:
                try:
                    staging.sealed.rename(place)
                except OSError:
                    if not place.exists():
                        raise
                    os.utime(place)
                else:
                    place.chmod(0o555)
            sync_folder(self._artifacts)
        self._damaged.discard(artifact.digest)
        return place

    def take(self, digest: str, fetch: Callable[[Path], bool]) -> Path:
        """Publish a copy that `fetch` writes into an empty folder; it is verified against its digest.

        Raises: StoreDamaged: `fetch` has none, or another one; StoreFull; what `fetch` raises.
        """
        with self.staging() as staging:
            staging.sealed.mkdir()
            if not fetch(staging.sealed) or not is_whole(staging.sealed, digest, deep=True):
                raise StoreDamaged(
                    f"Artifact {digest[:12]} is missing or damaged, here and in the depot; add the adapter again."
                )
            size_bytes = (staging.sealed / WEIGHTS).stat().st_size
            return self.publish(staging, StoredArtifact(digest, size_bytes))

    def note_use(self, digest: str) -> None:
        """Note that the artifact is used now, for `evict`."""
        with suppress(FileNotFoundError):
            os.utime(self.path(digest))

    def present(self) -> tuple[str, ...]:
        """The artifacts that have a copy here, the least recently used first."""
        used_at = {}
        for folder in self._artifacts.iterdir():
            with suppress(FileNotFoundError):
                if not folder.name.startswith(_GONE):
                    used_at[folder.name] = folder.stat().st_mtime
        return tuple(sorted(used_at, key=lambda digest: used_at[digest]))

    def evict(self, max_bytes: int, may_go: Callable[[str], bool]) -> tuple[str, ...]:
        """Remove copies, the least recently used first, until the rest fits; returns the digests.

        `may_go` is asked for each one that is to be removed.
        """
        sizes = {digest: content_bytes(self.path(digest)) for digest in self.present()}
        total, removed = sum(sizes.values()), []
        for digest, size_bytes in sizes.items():
            if total <= max_bytes:
                break
            if may_go(digest):
                with self._changing:
                    self._remove(digest)
                total -= size_bytes
                removed.append(digest)
        return tuple(removed)

    def require(self, digest: str) -> Path:
        """The folder of an artifact with complete names and sizes and no known damage. Raises: StoreDamaged."""
        if digest in self._damaged or not is_whole(self.path(digest), digest, deep=False):
            raise StoreDamaged(
                f"The stored copy of artifact {digest[:12]} is missing or damaged; add the adapter again."
            )
        return self.path(digest)

    def check(self, digests: Collection[str], *, deep: bool = False) -> tuple[str, ...]:
        """The missing or damaged ones, which `require` refuses from now on; `deep` reads and hashes every byte."""
        broken = tuple(digest for digest in digests if not is_whole(self.path(digest), digest, deep=deep))
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
            # r+: on NFS an exclusive lock needs a file that is open for writing.
            with suppress(BlockingIOError, FileNotFoundError), lock_path.open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink()
                removed += 1
        return removed

    def collect_garbage(self, needed: Collection[str], *, min_age_s: float = _GRACE_S) -> tuple[str, ...]:
        """Remove artifacts that no version needs, and what interrupted removals left; returns the digests, sorted.

        An artifact that was published less than `min_age_s` ago stays: the version that needs it may be newer
        than the caller's list.
        """
        newest_s = time.time() - min_age_s
        removed = set()
        for folder in sorted(
            self._artifacts.iterdir()
        ):  # what is left of an artifact comes before a whole one
            digest = folder.name.removeprefix(_GONE)
            is_left_over = folder.name != digest
            with self._changing:
                if (digest in needed and not is_left_over) or folder.stat().st_mtime > newest_s:
                    continue
                removed.add(digest)
                if is_left_over:
                    remove_tree(folder)
                else:
                    self._remove(digest)
        return tuple(sorted(removed.difference(needed)))

    def _remove(self, digest: str) -> None:
        gone = self._artifacts / f"{_GONE}{digest}"
        if gone.exists():
            remove_tree(gone)
        self.path(digest).rename(gone)  # renamed first, so that a partly removed artifact is never visible
        remove_tree(gone)
