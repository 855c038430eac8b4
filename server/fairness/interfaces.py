"""What the arbiter needs of the engine (protocols), how a request stands against its budget, and the counters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from server.fairness.kv_blocks.allocations import Allocation


class EngineCapacity(Protocol):
    """The free blocks and slots of the engine, and how many a request would take."""

    def free_blocks(self) -> int:
        """Blocks that no request holds."""

    def free_slots(self) -> int:
        """Number of sequences that could still start."""

    def new_blocks(self, item: Any) -> int:
        """Blocks that a waiting request would take and that no running request holds."""

    def growth(self, allocation: Allocation) -> int:
        """Upper bound of the blocks that a running request takes in the next step."""

    def full_blocks(self, item: Any) -> int:
        """Blocks for all tokens of a waiting request: a cheap upper bound of `new_blocks`."""


class EngineInterface(EngineCapacity, Protocol):
    """What the arbiter needs of the engine; `preempt` is the only call that changes it."""

    def is_ready(self, item: Any) -> bool:
        """Whether a waiting request could start if it had room."""

    def generated_tokens(self, item: Any) -> int:
        """Tokens that a running request has generated; 0 or less during its prompt."""

    def preempt(self, request_id: str) -> None:
        """Preempt a running request: call `Arbiter.stop` while its progress is known, then `Arbiter.requeue`."""


class BudgetStanding(IntEnum):
    """How a waiting request stands against its tenant's KV budget; the smallest value starts first."""

    GUARANTEED = 0
    BORROWING = 1
    BACKGROUND = 2
    OVER_LIMIT = 3


@dataclass(slots=True)
class SchedulerCounters:
    """Counts of the self-check and the metrics since the engine's start; they only grow."""

    steps: int = 0
    limit_violations: int = 0
    starved_steps: int = 0
    preempted_for_limit: int = 0
    preempted_for_guarantee: int = 0
    preempted_for_adapter: int = 0
    preempted_for_foreground: int = 0
