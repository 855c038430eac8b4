"""The memory of a server over time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.harness.memory import MemorySampler
from benchmarks.harness.servers import start_process


@pytest.mark.slow
def test_memory_is_sampled_until_the_end_of_the_block(tmp_path: Path) -> None:
    with start_process("idle", ["sleep", "60"], 1, "/", tmp_path) as server:
        with MemorySampler({"idle": server}) as memory:
            until = time.monotonic() + 20
            while len(memory.rss_bytes["idle"]) < 2 and time.monotonic() < until:
                time.sleep(0.05)
        (first_s, first), (second_s, _), *_ = memory.rss_bytes["idle"]
        assert first_s < second_s
        assert memory.peak_bytes("idle") >= first >= memory.pss_bytes["idle"] > 0


def test_a_server_without_samples_has_no_peak(tmp_path: Path) -> None:
    with start_process("idle", ["sleep", "60"], 1, "/", tmp_path) as server:
        assert MemorySampler({"idle": server}).peak_bytes("idle") == 0
