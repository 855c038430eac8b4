"""What one request and one tenant hold: KV blocks and sequence slots.

A block that several requests of one tenant share (a common system prompt) counts once. Tenants never share a
block, because their cache salts differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.fairness.shares import Share


@dataclass(slots=True)
class Allocation:
    """The slot and the blocks that one running request holds, until it ends or is preempted."""

    request_id: str
    tenant: str
    share: Share
    arrival: int
    adapter: int
    committed_blocks: int = 0
    """Blocks that its present tokens (the whole prompt) need, allocated or not."""
    block_ids: list[int] = field(default_factory=list)
    counted_at: float = 0.0

    @property
    def pending_blocks(self) -> int:
        """Blocks that are committed and not yet allocated."""
        return max(0, self.committed_blocks - len(self.block_ids))


@dataclass(slots=True)
class TenantAllocations:
    """All allocations of one tenant, with its sums."""

    share: Share
    allocations: dict[str, Allocation] = field(default_factory=dict)
    block_uses: dict[int, int] = field(default_factory=dict)  # block id -> number of allocations that use it
    pending_blocks: int = 0
    """Blocks that its running prompts will still take."""
    block_seconds: float = 0.0
    """Blocks in use, integrated over time up to `counted_at`."""
    counted_at: float = 0.0
    adapter_block_seconds: dict[int, float] = field(default_factory=dict)
    """The same by adapter id, up to each allocation's `counted_at`; a shared block counts for each request."""

    @property
    def blocks(self) -> int:
        """Distinct blocks in use."""
        return len(self.block_uses)

    @property
    def slots(self) -> int:
        """Sequence slots in use."""
        return len(self.allocations)

    @property
    def claimed_blocks(self) -> int:
        """Blocks in use plus those that its running prompts will still take."""
        return len(self.block_uses) + self.pending_blocks

    def count_time(self, allocation: Allocation, now: float) -> None:
        """Add the block-seconds of the tenant and of an allocation up to `now`. Call before blocks change."""
        self.block_seconds += len(self.block_uses) * (now - self.counted_at)
        self.counted_at = now
        if allocation.block_ids:
            before = self.adapter_block_seconds.get(allocation.adapter, 0.0)
            spent = len(allocation.block_ids) * (now - allocation.counted_at)
            self.adapter_block_seconds[allocation.adapter] = before + spent
        allocation.counted_at = now

    def newest_first(self) -> list[Allocation]:
        """The allocations in order of preemption."""
        return sorted(self.allocations.values(), key=lambda allocation: -allocation.arrival)

    def freed_by(self, allocation: Allocation) -> int:
        """Number of blocks that only this allocation uses."""
        return sum(1 for block_id in allocation.block_ids if self.block_uses[block_id] == 1)
