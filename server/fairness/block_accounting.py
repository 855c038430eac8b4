"""What each tenant holds of the engine, block by block, against its guarantee and its limit.

Blocks are counted as the cache holds them: a block that several requests of one tenant share (a common system
prompt) counts once. Blocks of different tenants are never the same ones, because their cache salts differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from server.fairness.policy import Capacity, Share


@dataclass(slots=True)
class Lease:
    """The slot and the blocks that one running request holds, until it ends or is preempted."""

    request_id: str
    tenant: str
    share: Share
    arrival: int
    adapter: int
    block_ids: list[int] = field(default_factory=list)
    committed_blocks: int = 0
    """What the request needs for the tokens it has already (its whole prompt), allocated or not."""
    counted_at: float = 0.0

    @property
    def pending_blocks(self) -> int:
        """Committed and not yet allocated."""
        return max(0, self.committed_blocks - len(self.block_ids))


@dataclass(slots=True)
class Holding:
    """All leases of one tenant."""

    share: Share
    leases: dict[str, Lease] = field(default_factory=dict)
    block_uses: dict[int, int] = field(default_factory=dict)  # block id -> leases that use it
    pending_blocks: int = 0
    """Blocks that the prompts under way will still take."""
    block_seconds: float = 0.0
    """Blocks in use, summed over time, up to `counted_at`."""
    counted_at: float = 0.0
    adapter_block_seconds: dict[int, float] = field(default_factory=dict)
    """The same by adapter, up to each lease's `counted_at`; a shared block counts for each that uses it."""

    @property
    def blocks(self) -> int:
        """Blocks in use, each once."""
        return len(self.block_uses)

    @property
    def slots(self) -> int:
        """Sequences in use."""
        return len(self.leases)

    @property
    def claimed_blocks(self) -> int:
        """Blocks in use and those that its prompts will still take."""
        return len(self.block_uses) + self.pending_blocks

    def count_time(self, leases: Iterable[Lease], now: float) -> None:
        """Bring the block-seconds of the tenant and of these leases up to `now`; before their blocks change."""
        self.block_seconds += len(self.block_uses) * (now - self.counted_at)
        self.counted_at = now
        for lease in leases:
            before = self.adapter_block_seconds.get(lease.adapter, 0.0)
            spent = len(lease.block_ids) * (now - lease.counted_at)
            self.adapter_block_seconds[lease.adapter] = before + spent
            lease.counted_at = now

    def newest_first(self) -> list[Lease]:
        """The leases in the order in which they are to be preempted."""
        return sorted(self.leases.values(), key=lambda lease: -lease.arrival)

    def freed_by(self, lease: Lease) -> int:
        """Blocks that only this lease uses."""
        return sum(1 for block_id in lease.block_ids if self.block_uses[block_id] == 1)


class Holdings:
    """The leases of all tenants."""

    __slots__ = ("_active", "_by_tenant", "_clock", "_leases", "capacity")

    def __init__(self, capacity: Capacity, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._clock = clock
        self._by_tenant: dict[str, Holding] = {}
        self._active: dict[str, Holding] = {}  # those with leases: every step looks at these
        self._leases: dict[str, Lease] = {}

    def set_share(self, tenant: str, share: Share) -> None:
        """The tenant's share from now on."""
        self.of(tenant, share).share = share

    def of(self, tenant: str, share: Share | None = None) -> Holding:
        """The tenant's holding, empty at first."""
        holding = self._by_tenant.get(tenant)
        if holding is None:
            holding = self._by_tenant[tenant] = Holding(share or Share())
        return holding

    def lease(self, request_id: str) -> Lease | None:
        """The lease of a running request."""
        return self._leases.get(request_id)

    def active(self) -> list[tuple[str, Holding]]:
        """The tenants that hold something now."""
        return list(self._active.items())

    def limited(self) -> list[tuple[str, Holding]]:
        """Those of them that may not have everything."""
        return [(tenant, holding) for tenant, holding in self._active.items() if holding.share.limit < 1]

    def tenants(self) -> list[str]:
        """All tenants that ever asked for something."""
        return list(self._by_tenant)

    def leases(self) -> Iterator[Lease]:
        """All leases."""
        return iter(self._leases.values())

    def open(self, lease: Lease) -> None:
        """A request starts; its blocks come with `extend`."""
        self._leases[lease.request_id] = lease
        holding = self.of(lease.tenant, lease.share)
        holding.leases[lease.request_id] = lease
        self._active[lease.tenant] = holding
        holding.pending_blocks += lease.pending_blocks

    def extend(self, lease: Lease, block_ids: Iterable[int]) -> None:
        """The request was given these blocks."""
        holding = self._by_tenant[lease.tenant]
        holding.count_time((lease,), self._clock())
        pending_before = lease.pending_blocks
        for block_id in block_ids:
            holding.block_uses[block_id] = holding.block_uses.get(block_id, 0) + 1
            lease.block_ids.append(block_id)
        holding.pending_blocks += lease.pending_blocks - pending_before

    def close(self, request_id: str) -> Lease | None:
        """The request ended or was preempted: all that it held is free. None if it held nothing."""
        lease = self._leases.pop(request_id, None)
        if lease is None:
            return None
        holding = self._by_tenant[lease.tenant]
        holding.count_time((lease,), self._clock())
        del holding.leases[request_id]
        if not holding.leases:
            del self._active[lease.tenant]
        holding.pending_blocks -= lease.pending_blocks
        for block_id in lease.block_ids:
            if holding.block_uses[block_id] == 1:
                del holding.block_uses[block_id]
            else:
                holding.block_uses[block_id] -= 1
        return lease

    def fits_guarantee(self, tenant: str, blocks: int) -> bool:
        """Whether one more request of so many blocks stays within what the tenant is guaranteed."""
        holding = self._by_tenant[tenant]
        share = holding.share
        if share.guarantee <= 0 or holding.slots >= self.capacity.guaranteed_slots(share):
            return False
        return holding.claimed_blocks + blocks <= self.capacity.guaranteed_blocks(share)

    def fits_limit(self, tenant: str, own: Share, blocks: int) -> bool:
        """Whether one more request of so many blocks stays within the tenant's limit.

        One block for each sequence is kept back, so that what starts is not preempted by its next tokens. A
        request that is alone may use what its own stamp allows: it was admitted on those terms.
        """
        holding = self._by_tenant[tenant]
        if holding.share.limit >= 1:
            return True
        limit = self.capacity.limit_blocks(holding.share)
        if not holding.slots:
            return blocks <= max(limit, self.capacity.limit_blocks(own))
        if holding.slots >= self.capacity.limit_slots(holding.share):
            return False
        return holding.claimed_blocks + blocks + holding.slots + 1 <= limit

    def beyond_limit(self, holding: Holding, growth: Callable[[Lease], int]) -> bool:
        """Whether the tenant's next step would take it over its limit, though it could run with less."""
        capacity, share, slots = self.capacity, holding.share, holding.slots
        if slots < 2 or share.limit >= 1:
            return False
        if slots > capacity.limit_slots(share):
            return True
        limit = capacity.limit_blocks(share)
        claimed = holding.claimed_blocks
        if claimed + slots <= limit:  # each sequence can take one block at most beyond its claim
            return False
        return holding.blocks + sum(growth(lease) for lease in holding.leases.values()) > limit

    def violations(self) -> int:
        """Tenants that hold more than they may: the self-check, 0 in a correct engine."""
        return sum(1 for _, holding in self.limited() if self._violates(holding))

    def pending_blocks(self) -> int:
        """Blocks that all prompts under way will still take."""
        return sum(holding.pending_blocks for holding in self._active.values())

    def block_seconds(self, tenant: str) -> tuple[float, dict[int, float]]:
        """Blocks the tenant has held, summed over time until now: in all, and by adapter id."""
        holding = self.of(tenant)
        holding.count_time(holding.leases.values(), self._clock())
        return holding.block_seconds, dict(holding.adapter_block_seconds)

    def excess_blocks(self, holding: Holding) -> int:
        """Blocks above the guarantee; negative below it."""
        return holding.blocks - self.capacity.guaranteed_blocks(holding.share)

    def excess_slots(self, holding: Holding) -> int:
        """Slots above the guarantee; negative below it."""
        return holding.slots - self.capacity.guaranteed_slots(holding.share)

    def _violates(self, holding: Holding) -> bool:
        shares = [holding.share]
        if holding.slots == 1:  # see `fits_limit`
            shares.append(next(iter(holding.leases.values())).share)
        blocks = max(self.capacity.limit_blocks(share) for share in shares)
        slots = max(self.capacity.limit_slots(share) for share in shares)
        return holding.blocks > blocks or holding.slots > slots
