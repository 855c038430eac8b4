"""Which replica answers a request: a pure function, used by the router and by `python -m benchmarks placement`.

A replica holds some adapters in memory and computes with fewer of them at once (`--max-loras`). A request is
answered fastest where its adapter is held and computes already, or can begin at once; it waits where all GPU slots
compute with other adapters, and it waits longest where the adapter has to be fetched first. So the order is:

1. the replica that has the cached prefix of this session, if it holds the adapter and needs no new slot;
2. replicas that hold the adapter and need no new slot, the least loaded first;
3. of the first `HOMES` in the adapter's own order of replicas (rendezvous hashing), those that need no new slot;
4. replicas that hold the adapter;
5. the adapter's own order.

All of these are below the load bound. Then follow the others, the least loaded first. Nothing is moved: a replica
that answers because the usual ones are busy loads the adapter, and forgets it when it needs the memory.

Sources: rendezvous hashing, Thaler and Ravishankar 1998; consistent hashing with bounded loads, Mirrokni et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol, TypeVar

#: A replica takes requests up to this many times the mean, and always up to `MIN_BOUND`.
LOAD_FACTOR = 1.5
MIN_BOUND = 8
#: How many of an adapter's own order load it because they have a slot and its holders have none. With more, copies of
#: popular adapters displace rare ones: in the simulation 12 hold 0.89 of the requests' adapters, 4 hold 0.94.
HOMES = 4
_KEPT_ORDERS = 8_192


class ReplicaView(Protocol):
    """What a router knows of one replica: its last report, and what this router has sent since."""

    @property
    def id(self) -> str:
        """Stable name of the replica."""

    @property
    def in_flight(self) -> int:
        """Requests that it has begun or that wait there."""

    @property
    def held(self) -> Set[str]:
        """Adapters in its memory."""

    @property
    def computing(self) -> Set[str]:
        """Adapters of the requests in flight; each takes a slot."""

    @property
    def slots(self) -> int:
        """With how many adapters it computes at once (`--max-loras`)."""


View = TypeVar("View", bound=ReplicaView)


def load_bound(replicas: Sequence[ReplicaView]) -> int:
    """How many requests in flight a replica may have and still be chosen for its adapters."""
    mean = sum(replica.in_flight for replica in replicas) / len(replicas)
    return max(MIN_BOUND, math.ceil(LOAD_FACTOR * mean))


def ranked(
    adapter: str | None, replicas: Sequence[View], bound: int | None = None, session: str | None = None
) -> Iterator[View]:
    """The replicas, the best for this request first; computed as far as it is read.

    Args:
        adapter: what names the adapter and its version for all replicas; None is the base model.
        replicas: those that accept requests.
        bound: see `load_bound`, which is computed if this is None.
        session: what names requests with a common prompt, such as `prompt_cache_key`.
    """
    if not replicas:
        return
    bound = load_bound(replicas) if bound is None else bound
    given: set[str] = set()
    for replica in _below_bound(adapter, replicas, bound, session):
        if replica.id not in given:
            given.add(replica.id)
            yield replica
    yield from sorted((r for r in replicas if r.id not in given), key=_load)


def _below_bound(
    adapter: str | None, replicas: Sequence[View], bound: int, session: str | None
) -> Iterator[View]:
    free = [replica for replica in replicas if replica.in_flight < bound]
    holders = sorted((r for r in free if adapter is None or adapter in r.held), key=_load)
    by_id = {replica.id: replica for replica in free}
    if session is not None:
        order = rendezvous_order(f"{adapter}\n{session}", tuple(sorted(r.id for r in holders)))
        yield from (by_id[name] for name in order[:1] if has_slot(by_id[name], adapter))
    yield from (replica for replica in holders if has_slot(replica, adapter))
    if adapter is None:
        return
    order = rendezvous_order(adapter, tuple(replica.id for replica in replicas))
    homes = (by_id[name] for name in order[:HOMES] if name in by_id)
    yield from (replica for replica in homes if has_slot(replica, adapter))
    yield from holders
    yield from (by_id[name] for name in order if name in by_id)


def has_slot(replica: ReplicaView, adapter: str | None) -> bool:
    """Whether the adapter computes there already or finds a slot."""
    return adapter is None or adapter in replica.computing or len(replica.computing) < replica.slots


@lru_cache(_KEPT_ORDERS)
def rendezvous_order(key: str, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The key's own order of the replicas: if one comes or goes, the others keep their order."""
    return tuple(sorted(ids, key=lambda name: blake2b(f"{key}\n{name}".encode(), digest_size=8).digest()))


def _load(replica: ReplicaView) -> int:
    return replica.in_flight
