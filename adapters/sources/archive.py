"""Unpacks an uploaded tar. It is untrusted: only regular files with plain relative names are read."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from adapters.artifact import CONFIG, WANTED, require_files
from adapters.artifact.files import BESIDE
from adapters.errors import SourceRefused
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.local import copy_beside, copy_stream
from adapters.store.fsync import CHUNK_BYTES

_MEMBERS_MAX = 1000
_LABEL_MAX_BYTES = 64 << 10  # tar stores long names and attributes in separate members
_EXPANSION_MAX = 100
_EXPANSION_FREE_BYTES = 16 << 20
_UNREADABLE = "The upload is not a whole tar or tar.gz; make it with `tar -czf adapter.tgz -C FOLDER .`."
_LABELS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


async def spool_archive(chunks: AsyncIterator[bytes], into: Path, limit: ByteLimit) -> Path:
    """Write the stream to a file. Raises: SourceRefused: it is larger than the limit."""
    path = into / "upload"
    with path.open("xb") as file:
        async for chunk in chunks:
            limit.add(len(chunk))
            file.write(chunk)
    return path


def unpack_archive(archive: Path, into: Path, limit: ByteLimit) -> str:
    """Unpack the adapter in the topmost folder of the archive, then delete the archive.

    Raises: SourceRefused: not readable, or a forbidden member; ArtifactRefused: no adapter in it.
    """
    names: dict[PurePosixPath, set[str]] = {}
    unpacked: dict[PurePosixPath, dict[str, Path]] = {}
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=_plain(raw), mode="r|", tarinfo=_Member) as tar:
            for count, member in enumerate(tar, 1):
                path = _check_member(member, count)
                if not member.isreg():
                    continue
                names.setdefault(path.parent, set()).add(path.name)
                if path.name in WANTED | BESIDE:
                    copy = into / f"member{count}"
                    if path.name in BESIDE:
                        copy_beside(_content(tar, member), copy, limit)
                    else:
                        with copy.open("xb") as file:
                            copy_stream(_content(tar, member), file, limit)
                    unpacked.setdefault(path.parent, {})[path.name] = copy
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceRefused(_UNREADABLE) from error
    archive.unlink()
    chosen = _choose(names)
    for folder, files in unpacked.items():
        for name, copy in files.items():
            if folder == chosen:
                copy.rename(into / name)
            else:
                copy.unlink()
    return "upload"


def _choose(names: dict[PurePosixPath, set[str]]) -> PurePosixPath:
    """The topmost folder with an adapter; trainers store checkpoints with adapters below it."""
    found = sorted((folder for folder in names if CONFIG in names[folder]), key=lambda path: len(path.parts))
    if len(found) > 1 and len(found[0].parts) == len(found[1].parts):
        raise SourceRefused(
            f"The upload holds several adapters ({found[0]} and {found[1]}); send each in a separate archive."
        )
    everything = set().union(*names.values())
    require_files(names[found[0]] if found else everything)
    return found[0] if found else PurePosixPath()


def _check_member(member: tarfile.TarInfo, count: int) -> PurePosixPath:
    shown = "".join(char if char.isprintable() else "?" for char in member.name)[:60]
    if count > _MEMBERS_MAX:
        raise SourceRefused(
            f"The upload has more than {_MEMBERS_MAX} members; send the adapter's folder only."
        )
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise SourceRefused(
            f"The upload's member {shown!r} points outside of the archive; use plain relative names."
        )
    if member.issym() or member.islnk():
        raise SourceRefused(
            f"The upload's member {shown!r} is a link; make the archive with `tar --dereference`."
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise SourceRefused(
            f"The upload's member {shown!r} is neither a plain file nor a folder; leave it out."
        )
    return path


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = tar.extractfile(member)
    assert file is not None, "only regular files come here"
    return file  # type: ignore[return-value]


def _plain(raw: BinaryIO) -> Any:
    start = raw.read(2)
    raw.seek(0)
    return _Expanding(gzip.GzipFile(fileobj=raw), raw) if start == b"\x1f\x8b" else raw


class _Expanding:
    """Reads a gzip file and refuses one that expands too much. Raises: SourceRefused."""

    def __init__(self, expanded: gzip.GzipFile, raw: BinaryIO) -> None:
        self._expanded, self._raw, self._seen_bytes = expanded, raw, 0

    def read(self, size: int) -> bytes:
        data = self._expanded.read(min(size, CHUNK_BYTES))
        self._seen_bytes += len(data)
        if self._seen_bytes > self._raw.tell() * _EXPANSION_MAX + _EXPANSION_FREE_BYTES:
            raise SourceRefused(
                f"The upload expands to more than {_EXPANSION_MAX} times its size; send the adapter's files only."
            )
        return data


class _Member(tarfile.TarInfo):
    """A tar member with a bounded label: tarfile reads labels into memory as a whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _LABELS and self.size > _LABEL_MAX_BYTES:
            raise SourceRefused(
                f"The upload has a label of {self.size} bytes, above {_LABEL_MAX_BYTES}; make it with plain tar."
            )
        return super()._proc_member(tar)  # type: ignore[misc]
