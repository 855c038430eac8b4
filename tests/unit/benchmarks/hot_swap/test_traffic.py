"""Inter-token latencies within intervals."""

from __future__ import annotations

from benchmarks.harness.client import RequestResult
from benchmarks.hot_swap.traffic import itl_within


def test_a_latency_belongs_to_the_interval_in_which_it_ends() -> None:
    result = RequestResult(0, "t", "globex-tools", 0, 0, [1.0, 2.0, 4.0, 8.0])
    other = RequestResult(0, "t", "acme-support", 0, 0, [1.0, 1.5])
    assert itl_within([("p", result), ("p", other)], "globex-tools", [(1.5, 3), (7, 9)]) == [1.0, 4.0]
