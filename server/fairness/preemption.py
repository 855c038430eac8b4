"""Who gives way to tenants that are below their guarantee and find no room."""

from __future__ import annotations

from collections.abc import Iterable

from server.fairness.block_accounting import Holdings, Lease
from server.fairness.interfaces import Room
from server.fairness.waiting_queue import Entry


class _Draft:
    """The holdings as they would be after the preemptions planned so far."""

    def __init__(self, holdings: Holdings, room: Room) -> None:
        self.holdings = holdings
        self.free_slots = room.free_slots()
        # What runs takes its blocks first in the coming step.
        self.free_blocks = room.free_blocks() - sum(room.growth(lease) for lease in holdings.leases())
        self.victims: list[Lease] = []
        self.exhausted = False
        self._over_blocks: dict[str, int] = {}
        self._over_slots: dict[str, int] = {}
        self._stacks: dict[str, list[Lease]] = {}
        for tenant, holding in holdings.active():
            over_blocks, over_slots = holdings.excess_blocks(holding), holdings.excess_slots(holding)
            if over_blocks > 0 or over_slots > 0:
                self._over_blocks[tenant], self._over_slots[tenant] = over_blocks, over_slots
                self._stacks[tenant] = holding.newest_first()[::-1]

    def make_room(self, blocks: int, room: Room) -> bool:
        """Plan preemptions until one more request of so many blocks fits; none if it never would."""
        before = len(self.victims)
        while self.free_slots < 1 or self.free_blocks < blocks:
            if not self._preempt_one(room):
                del self.victims[before:]
                self.exhausted = True
                return False
        return True

    def _preempt_one(self, room: Room) -> bool:
        """In the resource that is short, the newest request of the furthest above its guarantee goes."""
        over = self._over_slots if self.free_slots < 1 else self._over_blocks
        above = [tenant for tenant in self._stacks if self._stacks[tenant] and over[tenant] > 0]
        if not above:
            return False
        tenant = max(above, key=lambda t: (over[t], t))
        lease = self._stacks[tenant].pop()
        freed = self.holdings.of(tenant).freed_by(lease)
        self.free_slots += 1
        self.free_blocks += freed + room.growth(lease)
        self._over_blocks[tenant] -= freed
        self._over_slots[tenant] -= 1
        self.victims.append(lease)
        return True


def plan_reclaim(
    waiting: Iterable[list[Entry]], holdings: Holdings, room: Room
) -> tuple[list[Lease], list[Entry]]:
    """Whom to preempt so that guaranteed requests can start, and which ones can then.

    Nobody is preempted for a request that would not fit even then, and nobody at or below its guarantee.

    Args:
        waiting: requests of tenants below their guarantee, by tenant, in the order in which they would start.
        holdings: what is held now.
        room: what is free now.

    Returns:
        What is to be preempted, in order, and the waiting entries that have room then.
    """
    draft: _Draft | None = None
    starting: list[Entry] = []
    for entries in waiting:
        draft = draft or _Draft(holdings, room)
        starting += _plan_tenant(entries, draft, room)
        if draft.exhausted:
            break
    return (draft.victims if draft else []), starting


def _plan_tenant(entries: list[Entry], draft: _Draft, room: Room) -> list[Entry]:
    holdings = draft.holdings
    starting: list[Entry] = []
    own = holdings.of(entries[0].tenant).leases.values() if entries else ()
    blocks_planned = sum(max(0, room.growth(lease) - lease.pending_blocks) for lease in own)
    for entry in entries:
        holding = holdings.of(entry.tenant)
        blocks = room.new_blocks(entry.item)
        if holding.slots + len(starting) >= holdings.capacity.guaranteed_slots(holding.share):
            break
        if not holdings.fits_guarantee(entry.tenant, blocks_planned + blocks):
            break
        if not draft.make_room(blocks, room):
            break
        draft.free_slots -= 1
        draft.free_blocks -= blocks
        blocks_planned += blocks
        starting.append(entry)
    return starting


def victims_first(holdings: Holdings) -> list[str]:
    """All running requests in the order in which they are to be preempted when blocks run out."""
    excess = {tenant: holdings.excess_blocks(holding) for tenant, holding in holdings.active()}
    oldest_first = {tenant: holdings.of(tenant).newest_first()[::-1] for tenant in excess}
    order: list[str] = []
    while excess:
        tenant = max(excess, key=lambda t: (excess[t], t))
        lease = oldest_first[tenant].pop()
        order.append(lease.request_id)
        excess[tenant] -= len(lease.block_ids)
        if not oldest_first[tenant]:
            del excess[tenant]
    return order
