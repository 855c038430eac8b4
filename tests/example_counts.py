"""How many examples of a random test are looked at."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int, least: int = 10) -> int:
    """`count`; under the profile of `make test-fast` a tenth of it, and at least `least`."""
    return max(count // 10, min(count, least)) if settings.get_current_profile_name() == "fast" else count
