"""The chats of evaluations, kept in the data folder until their evaluation has ended."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from adapters.promotion.errors import EvaluationRefused
from adapters.store.fsync import raising_store_full

MAX_BYTES = 16 << 20
_MAX_LINES = 20_000
#: What one call of a worker reads.
_SLICE_LINES, _SLICE_BYTES = 16, 256 << 10


@dataclass(frozen=True, slots=True)
class Slice:
    """Some lines of the chats: JSON lines, of which the first has the number `first_line`."""

    raw: bytes
    first_line: int


@dataclass(frozen=True, slots=True)
class Received:
    """Chats that have arrived: a file that `keep` or `drop` takes away, and the SHA-256 of its content."""

    file: Path
    digest: str


class DataFiles:
    """One file for each evaluation of this server that has not ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def receive(self, stream: AsyncIterator[bytes]) -> Received:
        """Write a body to the disk. Raises: EvaluationRefused: it is empty or too large; StoreFull."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        file, digest, received_bytes = self._folder / f"{secrets.token_hex(8)}.part", hashlib.sha256(), 0
        try:
            async for part in stream:
                received_bytes += len(part)
                if received_bytes > MAX_BYTES:
                    raise EvaluationRefused(
                        f"The chats have more than {MAX_BYTES >> 20} MiB, the most that may be. Send fewer chats."
                    )
                digest.update(part)
                await asyncio.to_thread(_append, file, part)
            if not received_bytes:
                raise EvaluationRefused("There are no chats. Send a file with one chat per line as the body.")
        except BaseException:  # also when the client leaves: no part of a file may be left
            self.drop(file)
            raise
        return Received(file, digest.hexdigest())

    def keep(self, received: Received, evaluation: str) -> None:
        """Make it the evaluation's file."""
        received.file.replace(self._file(evaluation))

    def drop(self, file: Path) -> None:
        """Remove a file that was received."""
        file.unlink(missing_ok=True)

    def remove(self, evaluation: str) -> None:
        """Remove the evaluation's file; nothing happens if there is none."""
        self._file(evaluation).unlink(missing_ok=True)

    def drop_parts(self) -> None:
        """Remove what an earlier process has received in part."""
        for part in self._folder.glob("*.part"):
            self.drop(part)

    def kept(self) -> list[str]:
        """The evaluations whose chats are here."""
        return sorted(file.stem for file in self._folder.glob("*.jsonl"))

    def slices(self, evaluation: str) -> list[Slice]:
        """The chats in slices. Reads the file: call it in a thread. Raises: EvaluationRefused: too many lines."""
        lines = self._file(evaluation).read_bytes().split(b"\n")
        if len(lines) > _MAX_LINES:
            raise EvaluationRefused(
                f"The chats have {len(lines)} lines; {_MAX_LINES} are allowed. Send fewer chats."
            )
        found: list[Slice] = []
        begin = size_bytes = 0
        for number, line in enumerate(lines):
            size_bytes += len(line)
            if number + 1 - begin >= _SLICE_LINES or size_bytes >= _SLICE_BYTES or number + 1 == len(lines):
                found.append(Slice(b"\n".join(lines[begin : number + 1]), begin + 1))
                begin, size_bytes = number + 1, 0
        return found

    def _file(self, evaluation: str) -> Path:
        return self._folder / f"{evaluation}.jsonl"


def _append(file: Path, part: bytes) -> None:
    with raising_store_full(), file.open("ab") as opened:
        opened.write(part)
