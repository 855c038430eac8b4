"""The words that the parts of this package share: what they ask of the engine, and what they tell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from server.fairness.block_accounting import Lease


class Room(Protocol):
    """What is free in the engine, and what requests would take of it."""

    def free_blocks(self) -> int:
        """Blocks that nobody holds."""

    def free_slots(self) -> int:
        """Sequences that could still start."""

    def new_blocks(self, item: Any) -> int:
        """Blocks that a waiting request would take and that nobody holds yet."""

    def growth(self, lease: Lease) -> int:
        """Blocks that a running request would take in the next step, at most."""


class Engine(Room, Protocol):
    """What the arbiter must know of the engine, and the one thing that it asks of it."""

    def full_blocks(self, item: Any) -> int:
        """Blocks for all the tokens that a waiting request has: an upper bound of `new_blocks`, and cheap."""

    def is_ready(self, item: Any) -> bool:
        """Whether a waiting request could start if there were room."""

    def generated_tokens(self, item: Any) -> int:
        """Tokens that a running request has generated; at most 0 within its prompt."""

    def preempt(self, request_id: str) -> None:
        """Preempt a running request: `Arbiter.release` while its progress is known, then `put_back`."""


class Standing(IntEnum):
    """How a waiting request stands against its tenant's budget; the smaller goes first."""

    GUARANTEED = 0
    BORROWING = 1
    OVER_LIMIT = 2


@dataclass(slots=True)
class Tally:
    """What the self-check and the metrics count; only grows."""

    steps: int = 0
    limit_violations: int = 0
    starved_steps: int = 0
    preempted_for_limit: int = 0
    preempted_for_guarantee: int = 0
    preempted_for_adapter: int = 0
