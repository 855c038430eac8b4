"""Counts bytes as they come and stops what brings too many, or nobody waits for any more."""

from __future__ import annotations

import threading

from adapters.errors import SourceRefused, SourceUnavailable
from adapters.sources.models import Progress


class ByteLimit:
    """One fetch's count. It is used from one thread at a time; `stop` may be called from any."""

    def __init__(self, limit_bytes: int, progress: Progress | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.seen_bytes = 0
        self.total_bytes: int | None = None
        self._progress = progress
        self._stopped = threading.Event()

    def expect(self, total_bytes: int | None) -> None:
        """Take note of what the source says it has, if it does. Raises: SourceRefused: too much."""
        if total_bytes is not None and total_bytes > self.limit_bytes:
            raise SourceRefused(_too_large(total_bytes, self.limit_bytes))
        self.total_bytes = total_bytes

    def add(self, count_bytes: int) -> None:
        """Count what came. Raises: SourceRefused: too much; SourceUnavailable: stopped."""
        if self._stopped.is_set():
            raise SourceUnavailable("the fetch was stopped")
        self.seen_bytes += count_bytes
        if self.seen_bytes > self.limit_bytes:
            raise SourceRefused(_too_large(self.seen_bytes, self.limit_bytes))
        if self._progress is not None:
            self._progress(self.seen_bytes, self.total_bytes)

    def stop(self) -> None:
        """Let the next `add` fail."""
        self._stopped.set()


def _too_large(found_bytes: int, limit_bytes: int) -> str:
    return (
        f"the adapter has at least {found_bytes} bytes, above the limit of {limit_bytes}; "
        "train with a lower rank or restart with a larger --max-adapter-bytes"
    )
