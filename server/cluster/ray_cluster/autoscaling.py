"""How many servers a load needs: a pure function, and the policy that Ray Serve calls with it.

Leans on (ray 2.60) `AutoscalingPolicy` with a class and `AutoscalingContext`. Ray calls the policy ten times in a
second with the mean of what `record_autoscaling_stats` returned in the last `look_back_period_s`, keeps its answer
within `min_replicas` and `max_replicas`, and follows it once it has stayed for `upscale_delay_s` or
`downscale_delay_s`. Serve's own policy counts requests, of which it sees none here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """The load of one server.

    Attributes:
        waiting: requests that wait for the engine.
        kv_use: share of the KV cache in use, 0 to 1.
    """

    waiting: float
    kv_use: float


@dataclass(frozen=True, slots=True)
class ScalingBounds:
    """When to add servers and when to remove one.

    Attributes:
        waiting: more requests than this wait on a server in the mean: more are needed.
        kv_use: the same for the used share of the KV caches.
        kv_use_after: one is removed when nothing waits and the others would then use at most this share.
    """

    waiting: float = 4.0
    kv_use: float = 0.85
    kv_use_after: float = 0.6


def servers_needed(loads: Sequence[ServerLoad], wanted: int, bounds: ScalingBounds) -> int:
    """How many servers there should be.

    At most twice as many as run are asked for at once, because a queue says little about how many would empty it;
    at most one is removed at once, and none while others start.

    Args:
        loads: of those that run and have reported.
        wanted: how many there should be so far.
        bounds: when to change.
    """
    running = len(loads)
    if not running:
        return wanted
    waiting = sum(load.waiting for load in loads)
    used = sum(load.kv_use for load in loads)
    needed = max(math.ceil(waiting / bounds.waiting), math.ceil(used / bounds.kv_use))
    if needed > running:
        return max(wanted, min(needed, 2 * running))
    is_idle = waiting < 0.5 and running >= wanted > 1 and used <= bounds.kv_use_after * (running - 1)
    return wanted - 1 if is_idle else wanted


class Context(Protocol):
    """What is read of `ray.serve.config.AutoscalingContext`."""

    @property
    def target_num_replicas(self) -> int:
        """How many there should be so far."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """Name → replica → mean."""


class WaitingAndKvUse:
    """The policy, which Ray makes with the fields of `ScalingBounds`."""

    def __init__(self, **bounds: float) -> None:
        self._bounds = ScalingBounds(**bounds)

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """How many servers there should be; nothing is kept from call to call."""
        metrics = context.aggregated_metrics or {}
        waiting, kv_use = metrics.get("waiting", {}), metrics.get("kv_use", {})
        loads = [ServerLoad(waiting[each], kv_use[each]) for each in waiting.keys() & kv_use.keys()]
        return servers_needed(loads, context.target_num_replicas, self._bounds), {}
