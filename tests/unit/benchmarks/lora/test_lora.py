"""The ratios of `benchmarks lora`."""

from __future__ import annotations

import pytest

from benchmarks.lora.benchmark import ratios


def test_ratios_are_medians_of_the_ratios_within_a_round() -> None:
    rates = {
        "loragate_prefill": [60.0, 80.0, 70.0],
        "loragate_prefill_base": [100.0, 100.0, 100.0],
        "stock_prefill": [10.0, 10.0, 10.0],
        "loragate_decode": [9.0, 9.0, 9.0],
        "loragate_decode_base": [10.0, 10.0, 10.0],
        "stock_decode": [3.0, 3.0, 3.0],
    }
    figures = ratios(rates)
    assert figures["prefill_vs_stock"] == 7
    assert figures["lora_tax_prefill"] == pytest.approx(0.7)
    assert figures["decode_vs_stock"] == 3
    assert figures["lora_tax_decode"] == pytest.approx(0.9)
    assert "prefill_vs_stock_f32" not in figures, "it was not measured"
    assert figures["stock_prefill_tokens_per_s"] == 10
