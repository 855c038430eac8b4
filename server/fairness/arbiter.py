"""Who goes next, and who must give way: one object that the engine asks before and during each step.

A step of the engine is: `begin_step`; what runs takes its blocks; while there is room, `next`, `hold` and
`take` for each request that starts; `end_step`. Between two steps the engine has computed what it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from server.fairness.block_accounting import Holdings, Lease
from server.fairness.interfaces import Engine, Standing, Tally
from server.fairness.lora_slots import AdapterSlots
from server.fairness.policy import Capacity
from server.fairness.preemption import plan_reclaim
from server.fairness.prefill_cap import water_level
from server.fairness.token_charges import Bills
from server.fairness.waiting_queue import Entry, Line


class Arbiter:
    """Weighted fair queueing under guarantees and limits.

    Args:
        capacity: what there is.
        engine: see `Engine`.
        adapter_slots: the LoRA slots; None when the engine has none to share.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        capacity: Capacity,
        engine: Engine,
        adapter_slots: AdapterSlots | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holdings = Holdings(capacity, clock)
        self.line = Line()
        self.tally = Tally()
        self._engine = engine
        self.bills = Bills(engine.generated_tokens)
        self._adapter_slots = adapter_slots
        self._clock = clock
        self._next: Entry | None = None
        self._held_back: set[str] = set()  # requests preempted in this step: not again before the next
        self._yielding: set[str] = set()  # tenants that gave way in this step: they start nothing in it
        self._limited: set[str] = set()  # tenants whose limit kept them from competing
        self._exact_blocks: dict[str, int] = {}  # `new_blocks` asked in this step
        self._promised: dict[str, Entry] = {}  # guaranteed requests that have room in this step
        self._guaranteed_id = ""  # the request that `next` named last, if it was guaranteed
        self._has_lent = False  # whether a request that was not guaranteed started in this step

    # Arrivals and departures

    def arrive(self, entry: Entry) -> None:
        """A new request waits; its share is the tenant's from now on."""
        self.holdings.set_share(entry.tenant, entry.share)
        if not self.line.has_tenant(entry.tenant):
            self._lift(entry.tenant)
        self.put_back(entry)

    def put_back(self, entry: Entry) -> None:
        """A request that was taken or preempted waits again, at its old place."""
        self.line.put(entry)
        self._next = None

    def take(self, entry: Entry) -> None:
        """The request waits no more: it starts, is looked at again later, or is gone."""
        self.line.remove(entry)
        if not self.line.has_tenant(entry.tenant):
            self.bills.counters.left(entry.tenant)
        self._next = None

    def hold(self, entry: Entry, block_ids: Iterable[int], committed_blocks: int) -> None:
        """The request starts, with its first blocks of the `committed_blocks` that its tokens need."""
        lease = Lease(entry.request_id, entry.tenant, entry.share, entry.arrival, entry.adapter)
        lease.committed_blocks = committed_blocks
        self.holdings.open(lease)
        self.holdings.extend(lease, block_ids)
        if self._adapter_slots is not None:
            self._adapter_slots.start(entry.adapter, self._clock())
        self.bills.open(entry)
        self._has_lent |= entry.request_id != self._guaranteed_id
        self._next = None

    def release(self, request_id: str) -> None:
        """The request runs no more. Harmless for one that did not run."""
        lease = self.holdings.close(request_id)
        if lease is None:
            return
        self.bills.close(request_id)
        if self._adapter_slots is not None:
            self._adapter_slots.stop(lease.adapter)
        self._exact_blocks.clear()  # blocks that were shared with it may be nobody's now
        self._next = None

    # Choice

    def next(self) -> Entry | None:
        """The request that should start now, or None when none may. It stays in line until `take`."""
        if self._next is None and self.has_room:
            self._choose()
        return self._next

    @property
    def has_room(self) -> bool:
        """Whether something waits and the engine has a slot for it."""
        return len(self.line) > 0 and self._engine.free_slots() > 0

    def _choose(self) -> None:
        best: tuple[int, float, int] | None = None
        tenants = self.line.tenants()
        service_of = self.bills.counters.of if len(tenants) > 1 else _nobody_to_compare_with
        for tenant in tenants:
            entry = self._head(tenant)
            if entry is None or (standing := self.standing(entry)) is Standing.OVER_LIMIT:
                continue
            key = (int(standing), service_of(tenant), entry.arrival)
            if best is None or key < best:
                best, self._next = key, entry
        is_guaranteed = best is not None and best[0] == Standing.GUARANTEED
        self._guaranteed_id = self._next.request_id if self._next and is_guaranteed else ""

    def standing(self, entry: Entry) -> Standing:
        """The request against its tenant's guarantee and limit."""
        standing = self._measure(entry)
        if standing is Standing.OVER_LIMIT:
            self._limited.add(entry.tenant)
        elif entry.tenant in self._limited:
            # NOTE: what a tenant misses because of its own limit earns it no credit against the others.
            self._limited.discard(entry.tenant)
            self._lift(entry.tenant)
        return standing

    def prefill_cap(
        self, tokens: int, prefilling: dict[str, list[int]], prompt_tokens: Callable[[Any], int]
    ) -> int:
        """The most prompt tokens that one request may compute in this step; 0 for no cap.

        Args:
            tokens: what is left of the step's tokens when every decoding request has its own.
            prefilling: tenant -> tokens that each of its running prompts still has to compute.
            prompt_tokens: tokens that a waiting item would compute.
        """
        newcomers = [tenant for tenant in self.line.tenants() if tenant not in prefilling]
        slots = self._engine.free_slots() if newcomers else 0
        if slots <= 0:
            newcomers = []
        if len(prefilling) + len(newcomers) < 2:
            return 0
        heads = [entry for tenant in newcomers if (entry := self._head(tenant)) is not None]
        demands = [
            prompt_tokens(entry.item) for entry in heads if self.standing(entry) is not Standing.OVER_LIMIT
        ][:slots]
        if len(prefilling) + len(demands) < 2:
            return 0
        return water_level(demands + [demand for own in prefilling.values() for demand in own], tokens)

    # The step

    def begin_step(self) -> None:
        """Preempt whoever must give way before the engine schedules its next step."""
        self._held_back.clear()
        self._yielding.clear()
        self._has_lent = False
        self._promised.clear()
        self._exact_blocks.clear()
        self._next = None
        self._keep_limits()
        if len(self.line):
            self._turn_adapters()
            self._reclaim()

    def end_step(self, tokens_left: int) -> None:
        """Check what this step had to keep: no tenant above its limit, no guaranteed request passed over.

        Args:
            tokens_left: of the step's tokens. With none left a guaranteed request may wait for its turn,
                unless others started in its place.
        """
        self.bills.step()
        self.tally.steps += 1
        self.tally.limit_violations += self.holdings.violations()
        broken = [entry for entry in self._promised.values() if self._was_passed_over(entry)]
        if broken and (tokens_left > 0 or self._has_lent):
            self.tally.starved_steps += 1

    def _was_passed_over(self, entry: Entry) -> bool:
        """Whether it still waits, first of its tenant and within its guarantee."""
        return (
            self.line.has(entry)
            and self._head(entry.tenant) is entry
            and self._measure(entry) is Standing.GUARANTEED
        )

    def _guaranteed(self) -> Iterable[list[Entry]]:
        """Waiting requests of tenants below their guarantee, by tenant, the least served first."""
        tenants = [tenant for tenant in self.line.tenants() if self.holdings.fits_guarantee(tenant, 0)]
        for tenant in sorted(tenants, key=self.bills.counters.of) if len(tenants) > 1 else tenants:
            slots = self.holdings.capacity.guaranteed_slots(self.holdings.of(tenant).share)
            yield list(islice(self._startable(tenant), slots))

    def _keep_limits(self) -> None:
        for tenant, holding in self.holdings.limited():
            while self.holdings.beyond_limit(holding, self._engine.growth):
                self.tally.preempted_for_limit += 1
                self._yielding.add(tenant)
                self._preempt(holding.newest_first()[0])

    def _reclaim(self) -> None:
        """Make room for guaranteed requests; again after each round, because it may free LoRA slots too."""
        while True:
            victims, starting = plan_reclaim(self._guaranteed(), self.holdings, self._engine)
            self._promised = {entry.request_id: entry for entry in starting}
            if not victims:
                return
            for lease in victims:
                self.tally.preempted_for_guarantee += 1
                self._yielding.add(lease.tenant)
                self._preempt(lease)

    def _turn_adapters(self) -> None:
        slots = self._adapter_slots
        if slots is None:
            return
        wanted = self._wanted_adapters(slots) if slots.full else set()
        for adapter in slots.take_turns(wanted, self._clock()):
            for lease in [lease for lease in self.holdings.leases() if lease.adapter == adapter]:
                self.tally.preempted_for_adapter += 1
                self._preempt(lease)

    def _wanted_adapters(self, slots: AdapterSlots) -> set[int]:
        """Adapters without a slot that have a request which could start if there were one."""
        return {
            entry.adapter
            for tenant in self.line.tenants()
            for entry in self.line.heads(tenant)
            if not slots.runs(entry.adapter)
            and self._is_ready(entry)
            and self.standing(entry) is not Standing.OVER_LIMIT
        }

    def _measure(self, entry: Entry) -> Standing:
        """The cheap upper bound where it decides, else the exact number of blocks."""
        holdings, tenant, share = self.holdings, entry.tenant, entry.share
        blocks = self._engine.full_blocks(entry.item)
        if holdings.fits_guarantee(tenant, blocks):
            return Standing.GUARANTEED
        has_guarantee_left = holdings.fits_guarantee(tenant, 1)
        fits_limit = holdings.fits_limit(tenant, share, blocks)
        if not has_guarantee_left and (fits_limit or not holdings.fits_limit(tenant, share, 1)):
            return Standing.BORROWING if fits_limit else Standing.OVER_LIMIT
        blocks = self._exact_blocks.get(entry.request_id, -1)
        if blocks < 0:
            blocks = self._exact_blocks[entry.request_id] = self._engine.new_blocks(entry.item)
        if has_guarantee_left and holdings.fits_guarantee(tenant, blocks):
            return Standing.GUARANTEED
        return Standing.BORROWING if holdings.fits_limit(tenant, share, blocks) else Standing.OVER_LIMIT

    def _head(self, tenant: str) -> Entry | None:
        """The tenant's next request."""
        return next(self._startable(tenant), None)

    def _startable(self, tenant: str) -> Iterator[Entry]:
        """The tenant's requests whose adapter may start and that the engine would take, in order."""
        if tenant in self._yielding:
            return iter(())
        return filter(self._is_ready, self.line.in_order(tenant, self._may_start))

    def _lift(self, tenant: str) -> None:
        self.bills.counters.lift(tenant, (t for t in self.line.tenants() if t not in self._limited))

    def _may_start(self, adapter: int) -> bool:
        return self._adapter_slots is None or self._adapter_slots.can_start(adapter)

    def _is_ready(self, entry: Entry) -> bool:
        return entry.request_id not in self._held_back and self._engine.is_ready(entry.item)

    def _preempt(self, lease: Lease) -> None:
        self._held_back.add(lease.request_id)
        self._engine.preempt(lease.request_id)


def _nobody_to_compare_with(_: str) -> float:
    return 0.0
