"""Which request starts next and which requests are preempted: the object that the scheduler asks in each step.

A scheduler step is: `begin_step`; the running requests take their blocks; while there is room, `next`, `start` and
`dequeue` for each request that starts; `end_step`. Between two steps the engine computes the scheduled tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from server.fairness.background import Background
from server.fairness.candidates import Candidates
from server.fairness.interfaces import BudgetStanding, EngineInterface, SchedulerCounters
from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.kv_blocks.preemption import plan_preemption
from server.fairness.lora_slots import LoraSlots
from server.fairness.prefill_cap import prompt_cap
from server.fairness.shares import Capacity, is_background
from server.fairness.token_charges import TokenCharges
from server.fairness.waiting_queue import Entry, WaitingQueue


class Arbiter:
    """Weighted fair queueing under guarantees and limits.

    Args:
        capacity: of the engine.
        engine: the scheduler that asks.
        lora_slots: the LoRA slots; None when the engine serves no adapters.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        capacity: Capacity,
        engine: EngineInterface,
        lora_slots: LoraSlots | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.accounting = BlockAccounting(capacity, clock)
        self.queue = WaitingQueue()
        self.counters = SchedulerCounters()
        self._engine = engine
        self.charges = TokenCharges(engine.generated_tokens)
        self._lora_slots = lora_slots
        self._candidates = candidates = Candidates(self.queue, self.accounting, engine, lora_slots)
        self.row_shares = candidates.row_shares
        self.background = Background(self.queue, self.accounting, candidates, self.charges, engine)
        self._clock = clock
        self._next: Entry | None = None
        self._limited: set[str] = set()  # tenants whose own limit keeps their requests waiting
        self._fitting_guaranteed: dict[str, Entry] = {}  # guaranteed requests that have room in this step
        self._guaranteed_id = ""  # the request that `next` returned last, if it was guaranteed
        self._started_borrowing = False  # whether a request that was not guaranteed started in this step

    # Waiting and running

    def enqueue(self, entry: Entry) -> None:
        """Add a new request; its share is the tenant's from now on."""
        self.accounting.set_share(entry.tenant, entry.share)
        self.background.note(entry)
        if not self.queue.has_tenant(entry.tenant):
            self._lift(entry.tenant)
        self.requeue(entry)

    def requeue(self, entry: Entry) -> None:
        """Put a dequeued or preempted request back at its old place."""
        self.queue.put(entry)
        self._candidates.note_changed(entry.tenant)
        self._next = None

    def dequeue(self, entry: Entry) -> None:
        """Take a request out of the queue: it starts, is skipped for now, or has ended."""
        self.queue.remove(entry)
        self._candidates.note_changed(entry.tenant)
        if not self.queue.has_tenant(entry.tenant) and not entry.share.background:
            self.charges.note_empty(entry.tenant)
        self._next = None

    def start(self, entry: Entry, block_ids: Sequence[int], committed_blocks: int) -> None:
        """Account for a request that starts with these blocks, out of the `committed_blocks` that its tokens need."""
        allocation = Allocation(
            entry.request_id, entry.tenant, entry.share, entry.arrival, entry.adapter, committed_blocks
        )
        self.accounting.open(allocation, block_ids)
        slots = self._lora_slots
        if slots is not None and slots.start(entry.adapter, self._clock()) and slots.full:
            self._candidates.note_slots_full()
        self._candidates.note_changed(entry.tenant)
        self.charges.open(entry)
        self._started_borrowing |= entry.request_id != self._guaranteed_id
        self._next = None

    def stop(self, request_id: str) -> None:
        """Free everything that a request holds; nothing happens for one that does not run."""
        allocation = self.accounting.close(request_id)
        if allocation is None:
            return
        self.charges.close(request_id)
        if self._lora_slots is not None:
            self._lora_slots.stop(allocation.adapter)
        self._candidates.note_freed()
        self._next = None

    # The next request

    def next(self) -> Entry | None:
        """The request that should start now, or None when none may. It stays in the queue until `dequeue`."""
        if self._next is None and self.has_room:
            self._choose()
        return self._next

    @property
    def has_room(self) -> bool:
        """Whether a request waits and the engine has a free sequence slot."""
        return len(self.queue) > 0 and self._engine.free_slots() > 0

    def _choose(self) -> None:
        best: tuple[BudgetStanding, float, int] | None = None
        tenants = self.background.startable(self.queue.tenants())
        service_of = self.charges.service_of(tenants)
        for entry, standing in self._startable(tenants):
            key = (standing, service_of(entry.tenant), entry.arrival)
            if best is None or key < best:
                best, self._next = key, entry
        is_guaranteed = best is not None and best[0] == BudgetStanding.GUARANTEED
        self._guaranteed_id = self._next.request_id if self._next and is_guaranteed else ""

    def _startable(self, tenants: Iterable[str]) -> Iterator[tuple[Entry, BudgetStanding]]:
        """The request of each tenant that would start next and how it stands, unless its limit keeps it waiting."""
        for tenant in tenants:
            first = self._candidates.first(tenant)
            if first is not None and self._noted(tenant, first[1]) is not BudgetStanding.OVER_LIMIT:
                yield first

    def standing(self, entry: Entry) -> BudgetStanding:
        """How the request stands against its tenant's guarantee and limit."""
        return self._noted(entry.tenant, self._candidates.standing(entry))

    def _noted(self, tenant: str, standing: BudgetStanding) -> BudgetStanding:
        if standing is BudgetStanding.OVER_LIMIT:
            self._limited.add(tenant)
        elif tenant in self._limited:
            # NOTE: waiting for its own limit earns a tenant no credit against the other tenants.
            self._limited.discard(tenant)
            self._lift(tenant)
        return standing

    def prefill_cap(
        self, tokens: int, prefilling: dict[str, list[int]], prompt_tokens: Callable[[Any], int]
    ) -> int:
        """See `prompt_cap`; `prompt_tokens` returns the tokens that a waiting item would compute."""
        slots = max(0, self._engine.free_slots())
        tenants = self.background.startable(self.queue.tenants())
        newcomers = self._startable(tenant for tenant in tenants if tenant not in prefilling)
        waiting = [prompt_tokens(entry.item) for entry, _ in islice(newcomers, slots)]
        return prompt_cap(waiting, prefilling, tokens)

    # The step

    def begin_step(self) -> None:
        """Preempt requests, before vLLM schedules the step: for limits, foreground, LoRA turns and guarantees."""
        self._candidates.begin_step()
        self._started_borrowing, self._next = False, None
        self._fitting_guaranteed.clear()
        self._enforce_limits()
        for allocation in self.background.begin_step():
            self.counters.preempted_for_foreground += 1
            self._preempt(allocation)
        self._rotate_adapters()
        if self._guaranteed_tenants():
            self._serve_guarantees()

    def end_step(self, tokens_left: int) -> None:
        """Check the step: no tenant is above its limit, and no guaranteed request was passed over.

        Args:
            tokens_left: unused tokens of the step's budget. With none left a guaranteed request may wait,
                unless requests without a guarantee started instead.
        """
        self.charges.note_step()
        self.counters.steps += 1
        self.counters.limit_violations += self.accounting.violations()
        starved = any(map(self._candidates.was_passed_over, self._fitting_guaranteed.values()))
        if starved and (tokens_left > 0 or self._started_borrowing):
            self.counters.starved_steps += 1

    def _guaranteed_tenants(self) -> list[str]:
        """Tenants below their guarantee with waiting requests."""
        return [tenant for tenant in self.queue.tenants() if self.accounting.fits_guarantee(tenant, 1)]

    def _guaranteed(self) -> Iterator[list[Entry]]:
        """Their waiting requests, by tenant, the least served tenant first."""
        tenants = self._guaranteed_tenants()
        for tenant in sorted(tenants, key=self.charges.service_of(tenants)):
            slots = self.accounting.capacity.guaranteed_slots(self.accounting.of(tenant).share)
            yield list(islice(self._candidates.of(tenant), slots))

    def _enforce_limits(self) -> None:
        for tenant, allocated in self.accounting.limited():
            while self.accounting.exceeds_limit(allocated, self._engine.growth):
                self.counters.preempted_for_limit += 1
                self._candidates.preempted_tenants.add(tenant)
                self._preempt(allocated.newest_first()[0])

    def _serve_guarantees(self) -> None:
        """Preempt until guaranteed requests fit; repeat, because each round may free LoRA slots too."""
        while True:
            victims, starting = plan_preemption(self._guaranteed(), self.accounting, self._engine)
            self._fitting_guaranteed = {entry.request_id: entry for entry in starting}
            if not victims:
                return
            for allocation in victims:
                self.counters.preempted_for_guarantee += 1
                self._candidates.preempted_tenants.add(allocation.tenant)
                self._preempt(allocation)

    def _rotate_adapters(self) -> None:
        slots = self._lora_slots
        if slots is None:
            return
        wanted = self._waiting_adapters(slots) if slots.full and len(self.queue) else set()
        for adapter in slots.rotate(wanted, self._clock()):
            for allocation in [a for a in self.accounting.allocations() if a.adapter == adapter]:
                self.counters.preempted_for_adapter += 1
                self._preempt(allocation)

    def _waiting_adapters(self, slots: LoraSlots) -> set[int]:
        """Adapters without a LoRA slot that have a request which could start with one."""
        return {
            entry.adapter
            for tenant in self.background.unless_alone(self.queue.tenants())
            for entry in self.queue.heads(tenant)
            if not slots.runs(entry.adapter)
            and self._candidates.is_ready(entry)
            and self.standing(entry) is not BudgetStanding.OVER_LIMIT
        }

    def _lift(self, tenant: str) -> None:
        compared = [t for t in self.queue.tenants() if is_background(t) == is_background(tenant)]
        self.charges.lift(tenant, (t for t in compared if t not in self._limited))

    def _preempt(self, allocation: Allocation) -> None:
        self._candidates.preempted_requests.add(allocation.request_id)
        self._engine.preempt(allocation.request_id)
