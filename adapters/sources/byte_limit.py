"""Counts the bytes of a fetch and ends one that is too large or was cancelled."""

from __future__ import annotations

import threading

from adapters.errors import SourceRefused, SourceUnavailable
from adapters.sources.models import Progress


class ByteLimit:
    """The byte count of one fetch. One thread at a time uses it; `stop` may be called from any thread."""

    def __init__(self, limit_bytes: int, progress: Progress | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.seen_bytes = 0
        self.total_bytes: int | None = None
        self._progress = progress
        self._stopped = threading.Event()

    def expect(self, total_bytes: int | None) -> None:
        """Set the size that the source announces, if it does. Raises: SourceRefused: above the limit."""
        if total_bytes is not None and total_bytes > self.limit_bytes:
            raise SourceRefused(_too_large(total_bytes, self.limit_bytes))
        self.total_bytes = total_bytes

    def add(self, count_bytes: int) -> None:
        """Count bytes. Raises: SourceRefused: above the limit; SourceUnavailable: stopped."""
        if self._stopped.is_set():
            raise SourceUnavailable("The fetch was cancelled; add the adapter again.")
        self.seen_bytes += count_bytes
        if self.seen_bytes > self.limit_bytes:
            raise SourceRefused(_too_large(self.seen_bytes, self.limit_bytes))
        if self._progress is not None:
            self._progress(self.seen_bytes, self.total_bytes)

    def stop(self) -> None:
        """Make the next `add` fail."""
        self._stopped.set()


def _too_large(found_bytes: int, limit_bytes: int) -> str:
    return (
        f"The adapter has at least {found_bytes} bytes, above the limit of {limit_bytes}; "
        "train with a lower rank or restart with a larger --max-adapter-bytes."
    )
