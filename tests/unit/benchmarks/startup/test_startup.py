"""The figures of start-up times."""

from __future__ import annotations

from benchmarks.startup.benchmark import figures_of


def test_ratios_are_those_of_consecutive_starts_without_the_first() -> None:
    taken = {
        "loragate": [(99.0, 99.0), (5.0, 6.0), (12.0, 13.0), (6.0, 7.0)],
        "stock": [(1.0, 1.0), (10.0, 12.0), (20.0, 26.0), (10.0, 10.0)],
    }
    figures = figures_of(taken)
    assert figures["startup_vs_stock"] == 0.6
    assert figures["first_token_vs_stock"] == 0.5
    assert (figures["loragate_ready_s"], figures["stock_ready_s"]) == (6.0, 10.0)
    assert figures["startup_fresh_s"] == 99.0
