"""How figures are made of what was measured: ratios within a round, medians over rounds."""

from __future__ import annotations

import pytest

from benchmarks.harness.client import RequestResult
from benchmarks.hot_swap import benchmark as swap
from benchmarks.hot_swap.answers import ReferenceAnswers, Swap
from benchmarks.lora import benchmark as lora
from benchmarks.startup import benchmark as startup


def test_startup_ratios_are_taken_between_neighbours_and_leave_the_first_out() -> None:
    taken = {
        "loragate": [(99.0, 99.0), (5.0, 6.0), (12.0, 13.0), (6.0, 7.0)],
        "stock": [(1.0, 1.0), (10.0, 12.0), (20.0, 26.0), (10.0, 10.0)],
    }
    figures = startup.figures_of(taken)
    assert figures["startup_vs_stock"] == 0.6
    assert figures["first_token_vs_stock"] == 0.5
    assert (figures["loragate_ready_s"], figures["stock_ready_s"]) == (6.0, 10.0)
    assert figures["startup_fresh_s"] == 99.0


def test_lora_ratios() -> None:
    rates = {
        "loragate_prefill": [60.0, 80.0, 70.0],
        "loragate_prefill_base": [100.0, 100.0, 100.0],
        "stock_prefill": [10.0, 10.0, 10.0],
        "loragate_decode": [9.0, 9.0, 9.0],
        "loragate_decode_base": [10.0, 10.0, 10.0],
        "stock_decode": [3.0, 3.0, 3.0],
    }
    figures = lora.ratios(rates)
    assert figures["prefill_vs_stock"] == 7
    assert figures["lora_tax_prefill"] == pytest.approx(0.7)
    assert figures["decode_vs_stock"] == 3
    assert figures["lora_tax_decode"] == pytest.approx(0.9)
    assert "prefill_vs_stock_f32" not in figures, "it took no part"
    assert figures["stock_prefill_tokens_per_s"] == 10


def test_swap_figures_compare_the_other_tenants_gaps() -> None:
    def other(event_times_s: list[float]) -> tuple[str, RequestResult]:
        return "p", RequestResult(
            0, "globex", "globex-tools", 0, 0, event_times_s, event_times_s[-1], text="other"
        )

    probe = RequestResult(0, "acme", "acme-support", 11.0, 11.0, [11.5], 11.6, text="two")
    answers = ReferenceAnswers(
        "acme-support", "globex-tools", {1: {"p": "one"}, 2: {"p": "two"}}, {"p": "other"}
    )
    swaps = [Swap(2, 10.0, 11.0, probe, 12.0)]
    results = [other([1.0, 2.0, 3.0]), other([10.0, 11.2]), ("p", probe)]
    figures = swap.figures_of(results, answers, swaps, resting=[(0.0, 5.0)])
    assert (figures["failed_requests"], figures["mixed_answers"], figures["stale_answers"]) == (0, 0, 0)
    assert figures["p99_itl_ratio"] == 1.2
    assert figures["promote_to_first_token_s"] == 1.5
    assert figures["promote_s"] == 1.0
