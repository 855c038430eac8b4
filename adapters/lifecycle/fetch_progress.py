"""Running fetches of this process: their progress, and how many a tenant may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapters.errors import TooManyFetches
from adapters.models import Version
from adapters.sources import Progress

MAX_FETCHES = 4  # concurrent fetches of one tenant: each takes a thread and disk space


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Progress of a fetch; the total is None where the source does not say it."""

    fetched_bytes: int
    total_bytes: int | None


class RunningFetches:
    """The versions that are being fetched."""

    def __init__(self) -> None:
        self._fetches: dict[tuple[str, str, int], FetchProgress] = {}

    @contextmanager
    def track(self, version: Version, progress: Progress | None) -> Iterator[Progress]:
        """A progress callback for a fetch, callable from any thread; the progress is dropped with the block."""
        key = (version.tenant, version.adapter, version.number)

        def note(fetched_bytes: int, total_bytes: int | None) -> None:
            self._fetches[key] = FetchProgress(fetched_bytes, total_bytes)
            if progress is not None:
                progress(fetched_bytes, total_bytes)

        self._fetches[key] = FetchProgress(0, None)
        try:
            yield note
        finally:
            del self._fetches[key]

    def count(self, tenant: str) -> int:
        """Number of a tenant's versions that are being fetched."""
        return sum(owner == tenant for owner, _, _ in self._fetches)

    def check_limit(self, tenant: str) -> None:
        """Raises: TooManyFetches: MAX_FETCHES of the tenant's versions are being fetched."""
        if self.count(tenant) >= MAX_FETCHES:
            raise TooManyFetches(
                f"Tenant {tenant!r} already adds {MAX_FETCHES} versions, the most at the same time; "
                "try again when one of them has ended."
            )

    def progress_of(self, version: Version) -> FetchProgress | None:
        """The progress of a version's fetch; None if it is not being fetched."""
        return self._fetches.get((version.tenant, version.adapter, version.number))
