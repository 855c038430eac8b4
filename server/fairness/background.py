"""The background class: requests that take only what all others leave, and that are preempted first.

The server's own work (evaluations of versions) runs in it, under a name of its own for each tenant. All other
requests are foreground. In each step the background may hold
  - every sequence slot while no foreground request runs or could start;
  - one slot in 16 while foreground requests run, and of its prompts a few tokens for each step;
  - nothing while a foreground request lacks a slot, KV blocks or a LoRA slot.
No background request starts, or goes on with its prompt, in a step in which a foreground request does.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.fairness.candidates import Candidates
from server.fairness.interfaces import BudgetStanding, EngineCapacity
from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.token_charges import TokenCharges
from server.fairness.waiting_queue import Entry, WaitingQueue

#: Of the sequence slots, the part that the background may hold beside running foreground requests.
_SLOTS_PER_BACKGROUND_SLOT = 16
#: Prompt tokens that one background request computes in a step beside running foreground requests.
_PROMPT_TOKENS_BESIDE = 64


class Background:
    """What the background may hold in the present step; the arguments are the arbiter's own parts."""

    def __init__(
        self,
        queue: WaitingQueue,
        accounting: BlockAccounting,
        candidates: Candidates,
        charges: TokenCharges,
        engine: EngineCapacity,
    ) -> None:
        self._queue = queue
        self._accounting = accounting
        self._candidates = candidates
        self._charges = charges
        self._engine = engine
        self._tenants: set[str] = set()  # background names with a request that waits or runs
        self.slots = 0
        """Sequence slots that the background may hold in this step."""
        self.is_alone = True
        """Whether no foreground request runs or could start."""
        self.prompt_cap_tokens = 0
        """The most prompt tokens for each request of this step, which then has background prompts only; 0: no cap."""
        self._starts = False  # whether a background request may start in this step

    def note(self, entry: Entry) -> None:
        """A request arrives."""
        if entry.share.background:
            self._tenants.add(entry.tenant)

    def may_start(self) -> bool:
        """Whether one more background request may start in this step."""
        return self._starts and len(self._running()) < self.slots

    def begin_step(self) -> list[Allocation]:
        """Set what holds for this step; returns the requests to preempt, the newest first."""
        self.slots, self.is_alone, self.prompt_cap_tokens, self._starts = 0, True, 0, False
        if not self._tenants:
            return []
        running = self._running()
        self._tenants = {t for t in self._tenants if self._queue.has_tenant(t)} | {a.tenant for a in running}
        foreground = [a for a in self._accounting.allocations() if a.tenant not in self._tenants]
        waiting, lacks_room = self._waiting_foreground()
        self.is_alone = not (foreground or waiting)
        all_slots = self._accounting.capacity.max_num_seqs
        if self.is_alone:
            self.slots, self._starts = all_slots, True
            return []
        self.slots = 0 if lacks_room else max(1, all_slots // _SLOTS_PER_BACKGROUND_SLOT)
        newest_first = sorted(running, key=lambda allocation: -allocation.arrival)
        excess = newest_first[: max(0, len(running) - self.slots)]
        if waiting or any(map(self._is_in_prompt, foreground)):
            kept = newest_first[len(excess) :]
            return excess + [allocation for allocation in kept if self._is_in_prompt(allocation)]
        self._starts, self.prompt_cap_tokens = True, _PROMPT_TOKENS_BESIDE
        return excess

    def startable(self, tenants: list[str]) -> list[str]:
        """The names whose requests may start: those of the background only while it may start one more."""
        return tenants if not self._tenants or self.may_start() else self._foreground(tenants)

    def unless_alone(self, tenants: list[str]) -> list[str]:
        """The names for whose adapters a LoRA slot may be freed: those of the background only while it is alone."""
        return tenants if not self._tenants or self.is_alone else self._foreground(tenants)

    def _foreground(self, tenants: Iterable[str]) -> list[str]:
        return [tenant for tenant in tenants if tenant not in self._tenants]

    def _running(self) -> list[Allocation]:
        return [a for tenant in self._tenants for a in self._accounting.of(tenant).allocations.values()]

    def _is_in_prompt(self, allocation: Allocation) -> bool:
        return self._charges.is_in_prompt(allocation.request_id)

    def _waiting_foreground(self) -> tuple[bool, bool]:
        """Whether a foreground request waits that its own limit lets start, and whether one lacks room."""
        free_slots, needed_blocks = self._engine.free_slots(), 0
        waiting: list[Entry] = []
        for tenant in self._foreground(self._queue.tenants()):
            ready = [entry for entry in self._queue.heads(tenant) if self._could_start(entry)]
            if not ready:
                continue
            waiting += ready
            head = self._candidates.head(tenant)
            free_slots -= self._queue.count(tenant)
            if free_slots < 0 or head is None or not self._candidates.have_slots(waiting):
                return True, True  # without a head, it is a LoRA slot that is lacking
            needed_blocks += self._engine.full_blocks(head.item)
        return bool(waiting), bool(waiting) and needed_blocks > self._free_blocks()

    def _free_blocks(self) -> int:
        """What is left when the running requests have taken theirs."""
        return self._engine.free_blocks() - sum(map(self._engine.growth, self._accounting.allocations()))

    def _could_start(self, entry: Entry) -> bool:
        if not self._candidates.is_ready(entry):
            return False
        return self._candidates.standing(entry) is not BudgetStanding.OVER_LIMIT
