"""Copies a folder of the server's disk, so that later changes to it do not reach the engine."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from adapters.artifact import WANTED, require_files
from adapters.artifact.files import BESIDE, BESIDE_MAX_BYTES, list_names, open_plain
from adapters.errors import ArtifactRefused, SourceUnavailable
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.models import LocalSource
from adapters.store.fsync import CHUNK_BYTES


def fetch_local(source: LocalSource, into: Path, limit: ByteLimit) -> str:
    """Copy the wanted files; links are refused. Raises: SourceUnavailable, SourceRefused, ArtifactRefused."""
    try:
        names = list_names(source.path)
    except OSError as error:
        raise SourceUnavailable(
            "The folder does not exist or cannot be read by the server; check the path and its permissions."
        ) from error
    require_files(names)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open_plain(source.path / name)) for name in sorted(WANTED & names)}
        limit.expect(sum(os.fstat(file.fileno()).st_size for file in files.values()))
        for name, file in files.items():
            with (into / name).open("xb") as copy:
                copy_stream(file, copy, limit)
    for name in sorted(BESIDE & names):
        with suppress(ArtifactRefused), open_plain(source.path / name) as file:
            copy_beside(file, into / name, limit)
    return source.label


def copy_beside(file: BinaryIO, copy: Path, limit: ByteLimit) -> None:
    """Write the part that is read of a file beside the weights."""
    beginning = file.read(BESIDE_MAX_BYTES)
    limit.add(len(beginning))
    copy.write_bytes(beginning)


def copy_stream(file: BinaryIO, copy: BinaryIO, limit: ByteLimit) -> None:
    """Copy the rest of a file and count its bytes."""
    while chunk := file.read(CHUNK_BYTES):
        limit.add(len(chunk))
        copy.write(chunk)
