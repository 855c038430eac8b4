"""An engine that never computes: its requests say how many blocks they would take."""

from __future__ import annotations

from dataclasses import dataclass

from server.fairness.kv_blocks.allocations import Allocation


@dataclass
class Item:
    """A waiting request: its blocks, how many of them no running request holds, and whether it may start."""

    full_blocks: int
    new_blocks: int
    is_ready: bool = True


@dataclass
class Engine:
    """Answers from the items, and counts the questions whose number matters."""

    asked_blocks: int = 0
    asked_ready: int = 0
    asked_progress: int = 0

    def free_blocks(self) -> int:
        return 100

    def free_slots(self) -> int:
        return 10

    def full_blocks(self, item: Item) -> int:
        return item.full_blocks

    def new_blocks(self, item: Item) -> int:
        self.asked_blocks += 1
        return item.new_blocks

    def growth(self, allocation: Allocation) -> int:
        return 0

    def is_ready(self, item: Item) -> bool:
        self.asked_ready += 1
        return item.is_ready

    def generated_tokens(self, item: Item) -> int:
        self.asked_progress += 1
        return 0

    def preempt(self, request_id: str) -> None:
        raise AssertionError("nothing is preempted here")
