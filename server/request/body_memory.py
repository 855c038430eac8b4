"""Bounds the memory that the bodies of one tenant's requests occupy until their prompts are tokenized."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from server.errors import TooManyLargeRequests
from server.request.body import SMALL_BYTES


class BodyMemory:
    """Bytes of large bodies in memory, by tenant.

    Args:
        limit_bytes: most of one tenant at the same time; a single larger body is let in.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, tenant: str, size_bytes: int) -> Iterator[None]:
        """Count a body while it is in memory; a small one counts nothing.

        Raises:
            TooManyLargeRequests: the tenant's other bodies leave no room for it.
        """
        if size_bytes <= SMALL_BYTES:
            yield
            return
        held = self._held[tenant]
        if held and held + size_bytes > self._limit_bytes:
            raise TooManyLargeRequests(
                f"Large requests of your tenant that are being read have {held} bytes, this one {size_bytes}; "
                f"{self._limit_bytes} are allowed at the same time. Wait and send it again."
            )
        self._held[tenant] += size_bytes
        try:
            yield
        finally:
            self._held[tenant] -= size_bytes
            if not self._held[tenant]:
                del self._held[tenant]
