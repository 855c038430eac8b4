"""The bodies of one tenant occupy a bounded memory, and only its own requests meet the bound."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from server.errors import TooManyLargeRequests
from server.request.body import SMALL_BYTES
from server.request.body_memory import BodyMemory

LARGE = SMALL_BYTES + 1


def test_the_bound_is_a_tenants_own_and_counts_what_is_held_now() -> None:
    memory = BodyMemory(3 * LARGE)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(memory.hold("acme", LARGE))
        with pytest.raises(TooManyLargeRequests) as caught, memory.hold("acme", LARGE):
            raise AssertionError("it was let in")
        assert str(3 * LARGE) in str(caught.value) and caught.value.retry_after_s > 0
        with memory.hold("globex", LARGE), memory.hold("acme", SMALL_BYTES):
            pass
    with memory.hold("acme", 3 * LARGE):
        pass


def test_one_body_above_the_bound_is_let_in_alone() -> None:
    memory = BodyMemory(LARGE)
    with memory.hold("acme", 5 * LARGE), pytest.raises(TooManyLargeRequests), memory.hold("acme", LARGE):
        raise AssertionError("it was let in")
    with memory.hold("acme", 5 * LARGE):
        pass
