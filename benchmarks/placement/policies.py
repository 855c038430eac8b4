"""The policies that are compared. Each chooses a replica from what one router knows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.cluster.placement import rendezvous_order
from server.cluster.replica_views import ReplicaViews, TrackedReplica

#: Of bounded hashing: the mean times this.
_BOUND_FACTOR = 1.25
#: Ray Serve's multiplexing router sends no more than this many times what a replica computes at once.
_MAX_ONGOING = 1.5


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy may know of a request, and how many sequences a replica computes at once."""

    adapter: str
    sequences: int


Policy = Callable[[Request, ReplicaViews, random.Random], TrackedReplica]


def at_random(_: Request, views: ReplicaViews, rng: random.Random) -> TrackedReplica:
    """Any replica."""
    return rng.choice(views.replicas)


def power_of_two(_: Request, views: ReplicaViews, rng: random.Random) -> TrackedReplica:
    """The less loaded of two random ones."""
    return _less_loaded(views.replicas, rng)


def plain_hash(request: Request, views: ReplicaViews, _: random.Random) -> TrackedReplica:
    """The first replica of the adapter's own order, whatever its load."""
    return _own_order(request.adapter, views)[0]


def bounded_hash(request: Request, views: ReplicaViews, _: random.Random) -> TrackedReplica:
    """The first of the adapter's own order whose load is below 1.25 times the mean."""
    replicas = views.replicas
    bound = max(2, math.ceil(_BOUND_FACTOR * sum(r.in_flight for r in replicas) / len(replicas)) + 1)
    order = _own_order(request.adapter, views)
    return next((replica for replica in order if replica.in_flight < bound), order[0])


def ray_multiplexed(request: Request, views: ReplicaViews, rng: random.Random) -> TrackedReplica:
    """As Ray Serve's router of multiplexed models: holders, else the replicas with the fewest models, else any.

    Source: ray 2.60, `serve/_private/request_router`: `MultiplexMixin` and its power of two choices.
    """
    below = [r for r in views.replicas if r.in_flight < _MAX_ONGOING * request.sequences]
    holders = [r for r in below if request.adapter in r.held]
    if not holders:
        fewest = min((len(r.held) for r in below), default=0)
        holders = [r for r in below if len(r.held) == fewest]
    return _less_loaded(holders or views.replicas, rng)


def by_slots(request: Request, views: ReplicaViews, _: random.Random) -> TrackedReplica:
    """loragate's (`server.cluster.placement`)."""
    return next(views.choose(request.adapter))


POLICIES: dict[str, Policy] = {
    "loragate": by_slots,
    "random": at_random,
    "power of two": power_of_two,
    "plain hash": plain_hash,
    "bounded hash": bounded_hash,
    "Ray multiplexed": ray_multiplexed,
}


def _own_order(adapter: str, views: ReplicaViews) -> list[TrackedReplica]:
    by_id = {replica.id: replica for replica in views.replicas}
    return [by_id[name] for name in rendezvous_order(adapter, tuple(by_id))]


def _less_loaded(replicas: Sequence[TrackedReplica], rng: random.Random) -> TrackedReplica:
    return min(rng.choice(replicas), rng.choice(replicas), key=lambda replica: replica.in_flight)
