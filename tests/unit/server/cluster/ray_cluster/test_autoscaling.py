"""How many servers a load needs, and a load that rises and falls under the policy as Ray applies it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cluster.ray_cluster.autoscaling import ScalingBounds, ServerLoad, WaitingAndKvUse, servers_needed

BOUNDS = ScalingBounds(waiting=4, kv_use=0.85, kv_use_after=0.6)


def loads(*pairs: tuple[float, float]) -> list[ServerLoad]:
    return [ServerLoad(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("each", "wanted", "needed"),
    [
        (loads((0, 0.7)), 1, 1),
        (loads((5, 0.7)), 1, 2),
        (loads((100, 0.7)), 1, 2),  # at most twice as many
        (loads((0, 0.9)), 1, 2),
        (loads((3, 0.5), (6, 0.5)), 2, 3),
        (loads((100, 1.0)), 2, 2),  # the second is starting
        (loads((100, 1.0), (100, 1.0)), 3, 4),
        (loads((0, 0.3), (0, 0.3)), 2, 1),
        (loads((0, 0.35), (0, 0.35)), 2, 2),  # the other one would have 0.7
        (loads((1, 0.1), (0, 0.1)), 2, 2),  # something waits
        (loads((0, 0.1), (0, 0.1), (0, 0.1)), 3, 2),  # one at a time
        (loads((0, 0.1), (0, 0.1)), 3, 3),  # the third is starting
        (loads((0, 0.0)), 1, 1),
        ([], 2, 2),  # nobody has reported yet
    ],
    ids=str,
)
def test_servers_needed(each: list[ServerLoad], wanted: int, needed: int) -> None:
    assert servers_needed(each, wanted, BOUNDS) == needed


@given(
    st.lists(st.builds(ServerLoad, st.floats(0, 1e3), st.floats(0, 1)), min_size=1, max_size=20),
    st.integers(1, 20),
)
def test_what_was_removed_is_not_added_again(each: list[ServerLoad], wanted: int) -> None:
    needed = servers_needed(each, wanted, BOUNDS)
    assert 1 <= needed <= max(wanted, 2 * len(each)) and needed >= wanted - 1
    if needed < wanted:  # the load that the others get
        left = len(each) - 1
        spread = [ServerLoad(0, sum(load.kv_use for load in each) / left)] * left
        assert servers_needed(spread, needed, BOUNDS) <= needed


@dataclass
class Context:
    """As Ray's `AutoscalingContext`."""

    target_num_replicas: int
    aggregated_metrics: dict[str, dict[Any, float]] = field(default_factory=dict)


def test_the_policy_reads_what_servers_have_reported() -> None:
    policy = WaitingAndKvUse(waiting=4, kv_use=0.85, kv_use_after=0.6)
    assert policy(Context(1)) == (1, {})
    both = {"waiting": {"a": 9.0, "b": 9.0}, "kv_use": {"a": 0.2}}
    assert policy(Context(1, both)) == (2, {}), "b has reported one of two"


def simulated(arrivals: list[int], up_after: int, down_after: int, slots: int = 4) -> list[int]:
    """Servers at each second, under so many requests that arrive in each; a request takes a second and a slot.

    A new server takes 10 s to start. The limits and delays are Ray's: a wish counts once it has lasted.
    """
    policy, running, starting, target, queue = WaitingAndKvUse(), 1, [], 1, 0
    since: dict[bool, int] = {}
    history = []
    for now, arrived in enumerate(arrivals):
        running += sum(at <= now for at in starting)
        starting = [at for at in starting if at > now]
        queue += arrived
        served = min(queue, running * slots)
        queue -= served
        names = range(running)
        metrics = {
            "waiting": dict.fromkeys(names, queue / running),
            "kv_use": dict.fromkeys(names, served / (running * slots) * 0.9),
        }
        wish = min(8, max(1, policy(Context(target, metrics))[0]))
        for up, delay in ((True, up_after), (False, down_after)):
            if (wish > target) is not up or wish == target:
                since.pop(up, None)
            elif now - since.setdefault(up, now) >= delay:
                starting += [now + 10] * (wish - target)
                running -= max(0, target - wish)
                target = wish
                since.clear()
        history.append(target)
    return history


def test_servers_follow_a_load_that_rises_and_falls() -> None:
    quiet, busy = [2] * 120, [20] * 240
    history = simulated(quiet + busy + [2] * 900, up_after=10, down_after=60)
    assert set(history[:120]) == {1}, "a quiet load needs one"
    at_peak = history[359]
    assert math.ceil(20 / 4) <= at_peak <= 8
    assert history[-1] == 1
    changes = [after - before for before, after in itertools.pairwise(history) if after != before]
    first_down = next(i for i, change in enumerate(changes) if change < 0)
    assert all(change > 0 for change in changes[:first_down]), "up without a step back"
    assert changes[first_down:] == [-1] * (at_peak - 1), "down one at a time, without a step up"


def test_a_short_burst_changes_nothing() -> None:
    assert set(simulated([2] * 30 + [8] * 5 + [2] * 60, up_after=30, down_after=60)) == {1}


def test_a_short_calm_removes_nothing() -> None:
    history = simulated([20] * 300 + [2] * 30 + [20] * 120, up_after=10, down_after=60)
    assert min(history[299:]) == history[299]
