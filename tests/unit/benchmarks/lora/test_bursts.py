"""The rates of prefill and decode in a burst."""

from __future__ import annotations

import pytest

from benchmarks.harness.client import RequestResult
from benchmarks.lora.bursts import BurstFailed, decode_rate, prefill_rate


def burst(*event_times_s: list[float]) -> list[RequestResult]:
    return [
        RequestResult(
            n, "t", "m", 1.0, 1.0, times_s, times_s[-1], prompt_tokens=50, output_tokens=len(times_s)
        )
        for n, times_s in enumerate(event_times_s)
    ]


def test_prefill_ends_with_the_last_first_token() -> None:
    assert prefill_rate(burst([2.0, 9.0], [3.0, 9.0])) == 50


def test_decode_counts_only_while_all_requests_generate() -> None:
    assert decode_rate(burst([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0])) == pytest.approx(2.0)


def test_requests_that_never_generate_together_have_no_decode_rate() -> None:
    with pytest.raises(BurstFailed, match="output-tokens"):
        decode_rate(burst([1.0, 2.0], [3.0, 4.0]))
