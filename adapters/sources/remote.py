"""Copies a folder of a bucket through fsspec, with the credentials of the server's environment."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from adapters.artifact import CONFIG, WANTED, require_files
from adapters.artifact.files import BESIDE
from adapters.errors import SourceRefused, SourceUnavailable
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.local import copy_beside
from adapters.sources.models import RemoteSource
from adapters.store.fsync import CHUNK_BYTES, raising_store_full

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_ERRORS = (  # errors of the underlying libraries that the file systems do not translate
    ("botocore.exceptions", "BotoCoreError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("aiohttp", "ClientError"),
)
_ATTEMPTS = 3


def fetch_remote(source: RemoteSource, into: Path, limit: ByteLimit) -> str:
    """Copy the wanted files of a folder; an interrupted read continues where it stopped.

    Raises: SourceUnavailable, SourceRefused, ArtifactRefused.
    """
    file_system, folder = connect(source.url)
    errors = remote_errors()
    try:
        entries = {PurePosixPath(entry["name"]).name: entry for entry in file_system.ls(folder, detail=True)}
        files = {name: entry for name, entry in entries.items() if entry["type"] == "file"}
        require_files(files if CONFIG in files else {*files, *_names_below(file_system, folder)})
        wanted = sorted(WANTED & files.keys())
        limit.expect(sum(files[name]["size"] or 0 for name in wanted))
        for name in wanted:
            _copy(file_system, files[name]["name"], into / name, limit, errors)
        for name in sorted(BESIDE & files.keys()):
            with file_system.open(files[name]["name"], "rb") as file:
                copy_beside(file, into / name, limit)
    except errors as error:
        raise SourceUnavailable(
            f"{source.label} cannot be read; check that it exists and that the server's credentials may read it."
        ) from error
    return source.label


def connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises: SourceRefused: its package is not installed."""
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    try:
        file_system, folder = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "a file system for it")
        raise SourceRefused(
            f"Reading {scheme}:// needs the package {package}; "
            f"`pip install {package}` into the server's environment and restart."
        ) from error
    return file_system, folder


def _names_below(file_system: Any, folder: str) -> list[str]:
    """Names of the files below a folder, relative to it, to say where its adapter is."""
    found = file_system.find(folder, maxdepth=3)
    return [
        PurePosixPath(name).relative_to(folder).as_posix() for name in found if name.startswith(folder + "/")
    ]


def _copy(
    file_system: Any, name: str, copy: Path, limit: ByteLimit, errors: tuple[type[Exception], ...]
) -> None:
    with copy.open("xb") as target:
        for attempt in range(_ATTEMPTS):
            try:
                with file_system.open(name, "rb") as file:
                    file.seek(target.tell())
                    while chunk := file.read(CHUNK_BYTES):
                        limit.add(len(chunk))
                        with raising_store_full():
                            target.write(chunk)
                return
            except FileNotFoundError:
                raise
            except errors:
                if attempt == _ATTEMPTS - 1:
                    raise


def remote_errors() -> tuple[type[Exception], ...]:
    """What file systems raise when they cannot be read or written."""
    found: list[type[Exception]] = [OSError]
    for module, name in _ERRORS:
        with suppress(ImportError):  # then its file system is not installed either
            found.append(getattr(import_module(module), name))
    return tuple(found)
