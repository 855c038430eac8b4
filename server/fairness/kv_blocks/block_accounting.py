"""The KV blocks and sequence slots that each tenant holds, against its guarantee and its limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Set

from server.fairness.kv_blocks.allocations import Allocation, TenantAllocations
from server.fairness.shares import Capacity, Share


class BlockAccounting:
    """The allocations of all tenants, and what still fits."""

    __slots__ = (
        "_active",
        "_allocations",
        "_by_tenant",
        "_clock",
        "_limited",
        "capacity",
        "changes",
        "pending_blocks",
    )

    def __init__(self, capacity: Capacity, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.pending_blocks = 0
        """Blocks that all running prompts will still take."""
        self.changes = 0
        """How often a tenant became active or was so no more."""
        self._clock = clock
        self._by_tenant: dict[str, TenantAllocations] = {}
        #: Only tenants with allocations: each step reads these.
        self._active: dict[str, TenantAllocations] = {}
        self._allocations: dict[str, Allocation] = {}
        self._limited: list[tuple[str, TenantAllocations]] | None = None  # until another tenant is active

    def now_s(self) -> float:
        """Monotonic seconds, by the clock of the block-seconds."""
        return self._clock()

    def set_share(self, tenant: str, share: Share) -> None:
        """Set the tenant's share from now on."""
        allocated = self.of(tenant, share)
        if allocated.share is not share and allocated.share != share:
            allocated.share, self._limited = share, None

    def of(self, tenant: str, share: Share | None = None) -> TenantAllocations:
        """The tenant's allocations, empty at first."""
        allocated = self._by_tenant.get(tenant)
        if allocated is None:
            allocated = self._by_tenant[tenant] = TenantAllocations(share or Share())
        return allocated

    def allocation(self, request_id: str) -> Allocation | None:
        """The allocation of a running request; None for one that does not run."""
        return self._allocations.get(request_id)

    @property
    def slots(self) -> int:
        """Sequence slots in use, of all tenants."""
        return len(self._allocations)

    def slots_by_tenant(self) -> dict[str, int]:
        """Sequence slots in use, of each tenant that has any."""
        return {tenant: len(each.allocations) for tenant, each in self._active.items()}

    def active_tenants(self) -> Set[str]:
        """The names of the tenants that have allocations now; the set follows the allocations."""
        return self._active.keys()

    def active(self) -> list[tuple[str, TenantAllocations]]:
        """The tenants that have allocations now."""
        return list(self._active.items())

    def limited(self) -> list[tuple[str, TenantAllocations]]:
        """The active tenants that have a limit."""
        if self._limited is None:
            self._limited = [(tenant, each) for tenant, each in self._active.items() if each.share.limit < 1]
        return self._limited

    def tenants(self) -> list[str]:
        """All tenants that have sent a request since the start."""
        return list(self._by_tenant)

    def allocations(self) -> Iterator[Allocation]:
        """All allocations, of all tenants."""
        return iter(self._allocations.values())

    def open(self, allocation: Allocation, block_ids: Sequence[int] = ()) -> None:
        """Add the allocation of a request that starts with these blocks."""
        self._allocations[allocation.request_id] = allocation
        allocated = self.of(allocation.tenant, allocation.share)
        if not allocated.allocations:
            self._active[allocation.tenant] = allocated
            self._note_change()
        allocated.allocations[allocation.request_id] = allocation
        self._add_pending(allocated, allocation.committed_blocks)
        self.extend(allocation, block_ids)

    def extend(self, allocation: Allocation, block_ids: Sequence[int]) -> None:
        """Add blocks to the request's allocation."""
        allocated = self._by_tenant[allocation.tenant]
        allocated.count_time(allocation, self._clock())
        pending_before = allocation.pending_blocks
        uses = allocated.block_uses
        for block_id in block_ids:
            uses[block_id] = uses.get(block_id, 0) + 1
        allocation.block_ids += block_ids
        if pending_before:
            self._add_pending(allocated, allocation.pending_blocks - pending_before)

    def close(self, request_id: str) -> Allocation | None:
        """Remove the allocation of a request that ended or was preempted; None if it has none."""
        allocation = self._allocations.pop(request_id, None)
        if allocation is None:
            return None
        allocated = self._by_tenant[allocation.tenant]
        allocated.count_time(allocation, self._clock())
        del allocated.allocations[request_id]
        if not allocated.allocations:
            del self._active[allocation.tenant]
            self._note_change()
        if pending_blocks := allocation.pending_blocks:
            self._add_pending(allocated, -pending_blocks)
        uses = allocated.block_uses
        for block_id in allocation.block_ids:
            count = uses.pop(block_id)
            if count > 1:
                uses[block_id] = count - 1
        return allocation

    def fits_guarantee(self, tenant: str, blocks: int) -> bool:
        """Whether one more request with `blocks` new blocks stays within the tenant's guarantee."""
        allocated = self._by_tenant[tenant]
        share = allocated.share
        if share.guarantee <= 0 or allocated.slots >= self.capacity.guaranteed_slots(share):
            return False
        return allocated.claimed_blocks + blocks <= self.capacity.guaranteed_blocks(share)

    def fits_limit(self, tenant: str, own: Share, blocks: int) -> bool:
        """Whether one more request with `blocks` new blocks stays within the tenant's limit.

        One block per sequence is reserved, so that the next tokens do not preempt what has just started. A
        tenant's only request may use the limit of its own stamp, because it was admitted under that limit.
        """
        allocated = self._by_tenant[tenant]
        if allocated.share.limit >= 1:
            return True
        limit = self.capacity.limit_blocks(allocated.share)
        if not allocated.slots:
            return blocks <= max(limit, self.capacity.limit_blocks(own))
        if allocated.slots >= self.capacity.limit_slots(allocated.share):
            return False
        return allocated.claimed_blocks + blocks + allocated.slots + 1 <= limit

    def exceeds_limit(self, allocated: TenantAllocations, growth: Callable[[Allocation], int]) -> bool:
        """Whether the next step would take the tenant over its limit while it has a request to spare."""
        capacity, share, slots = self.capacity, allocated.share, allocated.slots
        if slots < 2 or share.limit >= 1:
            return False
        if slots > capacity.limit_slots(share):
            return True
        limit = capacity.limit_blocks(share)
        claimed = allocated.claimed_blocks
        if claimed + slots <= limit:  # each sequence takes at most one block beyond its claim
            return False
        return allocated.blocks + sum(map(growth, allocated.allocations.values())) > limit

    def violations(self) -> int:
        """Number of tenants above their limit: the self-check; a correct scheduler has 0."""
        return sum(1 for _, allocated in self.limited() if self._violates(allocated))

    def block_seconds(self, tenant: str) -> tuple[float, dict[int, float]]:
        """Block-seconds of the tenant until now: the total, and by adapter id."""
        allocated = self.of(tenant)
        now = self._clock()
        for allocation in allocated.allocations.values():
            allocated.count_time(allocation, now)
        return allocated.block_seconds, dict(allocated.adapter_block_seconds)

    def excess_blocks(self, allocated: TenantAllocations) -> int:
        """Blocks above the guarantee; negative below it."""
        return allocated.blocks - self.capacity.guaranteed_blocks(allocated.share)

    def excess_slots(self, allocated: TenantAllocations) -> int:
        """Slots above the guarantee; negative below it."""
        return allocated.slots - self.capacity.guaranteed_slots(allocated.share)

    def _note_change(self) -> None:
        self.changes += 1
        self._limited = None

    def _add_pending(self, allocated: TenantAllocations, blocks: int) -> None:
        allocated.pending_blocks += blocks
        self.pending_blocks += blocks

    def _violates(self, allocated: TenantAllocations) -> bool:
        shares = [allocated.share]
        if allocated.slots == 1:  # see `fits_limit`
            shares.append(next(iter(allocated.allocations.values())).share)
        blocks = max(self.capacity.limit_blocks(share) for share in shares)
        slots = max(self.capacity.limit_slots(share) for share in shares)
        return allocated.blocks > blocks or allocated.slots > slots
