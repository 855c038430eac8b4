"""The figures of swaps under load."""

from __future__ import annotations

from benchmarks.harness.client import RequestResult
from benchmarks.hot_swap.answers import ReferenceAnswers, Swap
from benchmarks.hot_swap.benchmark import figures_of


def test_figures_compare_the_latencies_of_the_other_tenant() -> None:
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
    figures = figures_of(results, answers, swaps, resting=[(0.0, 5.0)])
    assert (figures["failed_requests"], figures["mixed_answers"], figures["stale_answers"]) == (0, 0, 0)
    assert figures["p99_itl_ratio"] == 1.2
    assert figures["promote_to_first_token_s"] == 1.5
    assert figures["promote_s"] == 1.0
