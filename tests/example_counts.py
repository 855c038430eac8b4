"""How many examples of a random test are looked at."""

from __future__ import annotations

from hypothesis import settings

#: `make test-fast` looks at a twentieth of the examples, `make test-long` at all of them, `make test` at a sixth.
PARTS = {"fast": 20, "mutants": 3, "long": 1}
USUAL_PART = 6


def examples(count: int, least: int = 10) -> int:
    """The profile's part of `count`, and at least `least` of them."""
    part = PARTS.get(settings.get_current_profile_name(), USUAL_PART)
    return max(count // part, min(count, least))
