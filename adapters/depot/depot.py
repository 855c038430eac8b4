"""Artifacts by digest in a bucket or a shared folder, through fsspec.

    <url>/sha256/<digest>/   adapter_config.json  adapter_model.safetensors  manifest.json

The manifest is written last: an artifact without one does not exist. Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from adapters.artifact import CONFIG, WEIGHTS
from adapters.errors import DepotUnavailable, SourceRefused
from adapters.sources.remote import connect, remote_errors
from adapters.store.content import MANIFEST
from adapters.store.fsync import CHUNK_BYTES, raising_store_full

#: An artifact that no version needs is kept for so long: the version that needs it may be written later.
MIN_AGE_S = 3600.0


class Depot:
    """A depot at a URL: `s3://bucket/folder`, `file:///shared/adapters`. Thread-safe.

    Raises: SourceRefused: the package of its file system is not installed.
    """

    def __init__(self, url: str) -> None:
        self._files, root = connect(url.rstrip("/"))
        self._base, self._root = root, f"{root}/sha256"
        self._errors: tuple[type[Exception], ...] = (*remote_errors(), ValueError)
        # A bucket shows an object when it is whole; a folder shows a file while it is written.
        self._shows_unfinished = "file" in _protocols(self._files)

    def has(self, digest: str) -> bool:
        """Whether the artifact is there. Raises: DepotUnavailable."""
        with self._translated():
            return bool(self._files.exists(self._name(digest, MANIFEST)))

    def put(self, digest: str, folder: Path) -> None:
        """Copy an artifact of the store into the depot; one that is there counts as new.

        Raises: DepotUnavailable.
        """
        with self._translated():
            self._files.makedirs(f"{self._root}/{digest}", exist_ok=True)
            names = (
                (MANIFEST,)
                if self._files.exists(self._name(digest, MANIFEST))
                else (CONFIG, WEIGHTS, MANIFEST)
            )
            for name in names:
                self._upload(folder / name, self._name(digest, name))

    def fetch(self, digest: str, into: Path) -> bool:
        """Copy an artifact's files into a folder, unverified; False: the depot does not have it.

        Raises: DepotUnavailable, StoreFull.
        """
        with self._translated():
            if not self._files.exists(self._name(digest, MANIFEST)):
                return False
            for name in (CONFIG, WEIGHTS, MANIFEST):
                with (
                    self._files.open(self._name(digest, name), "rb") as source,
                    (into / name).open("xb") as copy,
                ):
                    while chunk := source.read(CHUNK_BYTES):
                        with raising_store_full():
                            copy.write(chunk)
        return True

    def digests(self) -> frozenset[str]:
        """All artifacts, unfinished ones too. Raises: DepotUnavailable."""
        return self.names("sha256")

    def remove(self, digest: str, *, min_age_s: float = MIN_AGE_S) -> bool:
        """Remove an artifact unless it was put less than `min_age_s` ago; returns whether it is gone.

        Raises: DepotUnavailable.
        """
        with self._translated():
            names = self._files.ls(f"{self._root}/{digest}", detail=False)
            if any(time.time() - self._modified_at(str(name)) < min_age_s for name in names):
                return False
            if self._shows_unfinished:
                Path(f"{self._root}/{digest}").chmod(
                    0o755
                )  # it may have been a store's folder, which is read-only
            if (manifest := self._name(digest, MANIFEST)) in map(str, names):
                self._files.rm_file(manifest)  # first: what is left is then no artifact
            self._files.rm(f"{self._root}/{digest}", recursive=True)
        return True

    def write_file(self, file: Path, name: str) -> None:
        """Copy a file to `<url>/<name>`. Raises: DepotUnavailable."""
        with self._translated():
            self._files.makedirs(f"{self._base}/{PurePosixPath(name).parent}", exist_ok=True)
            self._upload(file, f"{self._base}/{name}")

    def read_file(self, name: str) -> Iterator[bytes]:
        """The chunks of `<url>/<name>`. Raises: DepotUnavailable."""
        with self._translated(), self._files.open(f"{self._base}/{name}", "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def names(self, folder: str) -> frozenset[str]:
        """What is directly in `<url>/<folder>`. Raises: DepotUnavailable."""
        with self._translated():
            self._files.makedirs(f"{self._base}/{folder}", exist_ok=True)
            listed = self._files.ls(f"{self._base}/{folder}", detail=False)
            return frozenset(PurePosixPath(str(name)).name for name in listed)

    def remove_all(self, name: str) -> None:
        """Remove a file or a folder with all its files, if it is there. Raises: DepotUnavailable."""
        with self._translated(), suppress(FileNotFoundError):
            self._files.rm(f"{self._base}/{name}", recursive=True)

    def _name(self, digest: str, file: str) -> str:
        return f"{self._root}/{digest}/{file}"

    def _upload(self, file: Path, name: str) -> None:
        written = f"{name}.{uuid4().hex}" if self._shows_unfinished else name
        with file.open("rb") as source, self._files.open(written, "wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK_BYTES)
        if written != name:
            self._files.mv(written, name)

    def _modified_at(self, name: str) -> float:
        modified: datetime = self._files.modified(name)
        return modified.timestamp()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SourceRefused:
            raise
        except self._errors as error:
            raise DepotUnavailable(
                "The depot of adapters cannot be reached; try again shortly. Adapters that this server has a copy of "
                "are not affected."
            ) from error


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
