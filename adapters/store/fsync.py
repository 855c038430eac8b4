"""Durable writes with fsync, and the translation of a full disk to StoreFull."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adapters.errors import StoreFull

CHUNK_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def raising_store_full() -> Iterator[None]:
    """Turn the operating system's "no space left" into StoreFull; other errors are raised unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(
                "The disk that holds the adapter store is full; remove adapters, whose space is free when their last "
                "request has ended, or enlarge the disk, then try again."
            ) from error
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and fsync it. Raises: OSError: it exists, or cannot be written."""
    with path.open("xb") as file:
        file.write(content)
        sync_file(file)


def sync_file(file: BinaryIO) -> None:
    """Flush a file and wait until its content is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
