"""The benchmark of replicas: how its seconds are counted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.many_servers import replicas

NOBODY: Any = None


def test_a_figure_is_the_slowest_round() -> None:
    rounds = [{"added_elsewhere": 0.1}, {"added_elsewhere": 0.5}, {"added_elsewhere": 0.2}]
    assert replicas.figures_of(rounds) == {"added_elsewhere_s": 0.5, "added_elsewhere_median_s": 0.2}


async def test_waiting_counts_to_the_first_time_that_it_holds() -> None:
    began_s = time.monotonic()

    async def holds(_: Any) -> bool:
        return time.monotonic() > began_s + 0.1

    assert 0.1 <= await replicas._until(holds, NOBODY, began_s) < 0.3


async def test_what_ends_counts_to_the_last_time_that_it_held() -> None:
    began_s = time.monotonic()

    async def holds(_: Any) -> bool:
        return time.monotonic() < began_s + 0.1

    assert 0.0 < await replicas._last_true(holds, NOBODY, began_s) <= 0.1

    async def never(_: Any) -> bool:
        return False

    assert await replicas._last_true(never, NOBODY, began_s) == 0.0


async def test_a_server_that_never_follows_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_TIMEOUT_S", 0.05)

    async def answer(_: Any) -> bool:
        return waits is replicas._last_true

    for waits in (replicas._until, replicas._last_true):
        with pytest.raises(BenchmarkFailed, match="has not followed"):
            await waits(answer, NOBODY, time.monotonic())
