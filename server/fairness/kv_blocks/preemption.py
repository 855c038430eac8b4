"""Chooses which running requests to preempt for tenants below their KV guarantee."""

from __future__ import annotations

from collections.abc import Iterable

from server.fairness.interfaces import EngineCapacity
from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.shares import is_background
from server.fairness.waiting_queue import Entry


class _PreemptionPlan:
    """The free blocks and slots as they would be after the preemptions planned so far."""

    def __init__(self, accounting: BlockAccounting, engine: EngineCapacity) -> None:
        self.accounting = accounting
        self.free_slots = engine.free_slots()
        # The running requests take their blocks before others start in the coming step.
        self.free_blocks = engine.free_blocks() - sum(engine.growth(a) for a in accounting.allocations())
        self.victims: list[Allocation] = []
        self.exhausted = False
        self._over_blocks: dict[str, int] = {}
        self._over_slots: dict[str, int] = {}
        self._stacks: dict[str, list[Allocation]] = {}
        for tenant, allocated in accounting.active():
            over_blocks, over_slots = accounting.excess_blocks(allocated), accounting.excess_slots(allocated)
            if over_blocks > 0 or over_slots > 0:
                self._over_blocks[tenant], self._over_slots[tenant] = over_blocks, over_slots
                self._stacks[tenant] = allocated.newest_first()[::-1]

    def make_room(self, blocks: int, engine: EngineCapacity) -> bool:
        """Plan preemptions until a request with `blocks` blocks fits; False, and no preemption, if it cannot."""
        before = len(self.victims)
        while self.free_slots < 1 or self.free_blocks < blocks:
            if not self._preempt_one(engine):
                del self.victims[before:]
                self.exhausted = True
                return False
        return True

    def _preempt_one(self, engine: EngineCapacity) -> bool:
        """Preempt the newest request of the tenant furthest above its guarantee in the resource that is short."""
        over = self._over_slots if self.free_slots < 1 else self._over_blocks
        above = [tenant for tenant in self._stacks if self._stacks[tenant] and over[tenant] > 0]
        if not above:
            return False
        tenant = max(above, key=lambda t: (is_background(t), over[t], t))
        allocation = self._stacks[tenant].pop()
        freed = self.accounting.of(tenant).freed_by(allocation)
        self.free_slots += 1
        self.free_blocks += freed + engine.growth(allocation)
        self._over_blocks[tenant] -= freed
        self._over_slots[tenant] -= 1
        self.victims.append(allocation)
        return True


def plan_preemption(
    waiting: Iterable[list[Entry]], accounting: BlockAccounting, engine: EngineCapacity
) -> tuple[list[Allocation], list[Entry]]:
    """Choose the requests to preempt so that guaranteed requests can start.

    No request is preempted for one that would still not fit, and no tenant is taken below its guarantee.

    Args:
        waiting: requests of tenants below their guarantee, by tenant, in the order in which they would start.
        accounting: what each tenant holds now.
        engine: what is free now.

    Returns:
        The allocations to preempt, in order, and the waiting entries that then have room.
    """
    plan: _PreemptionPlan | None = None
    starting: list[Entry] = []
    for entries in waiting:
        plan = plan or _PreemptionPlan(accounting, engine)
        starting += _plan_tenant(entries, plan, engine)
        if plan.exhausted:
            break
    return (plan.victims if plan else []), starting


def _plan_tenant(entries: list[Entry], plan: _PreemptionPlan, engine: EngineCapacity) -> list[Entry]:
    accounting = plan.accounting
    starting: list[Entry] = []
    own = accounting.of(entries[0].tenant).allocations.values() if entries else ()
    blocks_planned = sum(max(0, engine.growth(allocation) - allocation.pending_blocks) for allocation in own)
    for entry in entries:
        allocated = accounting.of(entry.tenant)
        blocks = engine.new_blocks(entry.item)
        if allocated.slots + len(starting) >= accounting.capacity.guaranteed_slots(allocated.share):
            break
        if not accounting.fits_guarantee(entry.tenant, blocks_planned + blocks):
            break
        if not plan.make_room(blocks, engine):
            break
        plan.free_slots -= 1
        plan.free_blocks -= blocks
        blocks_planned += blocks
        starting.append(entry)
    return starting


def preemption_order(accounting: BlockAccounting) -> list[str]:
    """The ids of all running requests, in the order in which to preempt them when blocks run out.

    Those of the background come first, then those of the tenant furthest above its guarantee.
    """
    excess = {tenant: accounting.excess_blocks(allocated) for tenant, allocated in accounting.active()}
    oldest_first = {tenant: accounting.of(tenant).newest_first()[::-1] for tenant in excess}
    order: list[str] = []
    while excess:
        tenant = max(excess, key=lambda t: (is_background(t), excess[t], t))
        allocation = oldest_first[tenant].pop()
        order.append(allocation.request_id)
        excess[tenant] -= len(allocation.block_ids)
        if not oldest_first[tenant]:
            del excess[tenant]
    return order
