"""The figures of reports: percentiles, throughput within the run, goodput, groups, JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.client import RequestResult
from benchmarks.harness.compare import ratios
from benchmarks.harness.load_generator import RunResult
from benchmarks.harness.report import (
    Slo,
    exit_code,
    holds,
    percentile,
    print_figures,
    print_json,
    print_table,
    report,
    summary,
)


def result(
    tenant: str = "acme", sent_s: float = 0.0, event_times_s: tuple[float, ...] = (), **more
) -> RequestResult:
    """An answered request whose last token ended it."""
    made = RequestResult(0, tenant, f"{tenant}-x", sent_s, sent_s, list(event_times_s))
    made.end_s = event_times_s[-1] if event_times_s else sent_s
    made.output_tokens = len(event_times_s)
    made.prompt_tokens = 10
    for name, value in more.items():
        setattr(made, name, value)
    return made


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 100))
def test_percentiles_lie_between_the_two_nearest_ranks(values: list[float], percent: float) -> None:
    found, ordered, rank = percentile(values, percent), sorted(values), (len(values) - 1) * percent / 100
    assert found is not None
    assert ordered[math.floor(rank)] - 1e-6 <= found <= ordered[math.ceil(rank)] + 1e-6


def test_a_percentile_between_two_ranks_is_interpolated() -> None:
    assert percentile([4.0, 1.0, 2.0, 3.0], 90) == pytest.approx(3.7)


def test_there_is_no_percentile_without_values() -> None:
    assert percentile([], 50) is None


def test_the_latencies_of_a_result() -> None:
    seen = result(sent_s=1.0, event_times_s=(1.5, 1.75, 2.25))
    assert (seen.ttft_s, seen.e2e_s, seen.tpot_s) == (0.5, 1.25, 0.375)
    assert seen.itl_s == [0.25, 0.5]


def test_an_answer_of_one_token_has_no_time_per_output_token() -> None:
    assert result(event_times_s=(0.5,)).tpot_s is None


def test_an_event_counts_for_all_its_tokens() -> None:
    assert result(event_times_s=(0.5, 1.5), output_tokens=8).tokens_within(0, 1.0) == 4
    assert RunResult([result(event_times_s=(0.5, 1.5), output_tokens=8)], 1.0).tokens_per_s == 4


def test_tokens_after_the_end_of_a_run_do_not_count() -> None:
    figures = summary([RunResult([result(event_times_s=(0.5, 1.0, 1.5, 2.5))], 2.0)], Slo())
    assert figures["output_tokens_per_s"] == 1.5
    assert figures["requests_per_s"] == 0, "it had not ended"


def test_rounds_add_up() -> None:
    rounds = [
        RunResult([result(event_times_s=(0.5, 1.0))], 2.0),
        RunResult([result(event_times_s=(0.5,) * 4)], 2.0),
    ]
    assert summary(rounds, Slo())["output_tokens_per_s"] == 1.5


def test_goodput_counts_only_answers_that_meet_the_slo() -> None:
    slo = Slo(ttft_ms=600, itl_ms=300, e2e_ms=2000)
    good = result(event_times_s=(0.5, 0.75))
    late = result(event_times_s=(0.7, 0.9))
    slow = result(event_times_s=(0.5, 0.9))
    long = result(event_times_s=tuple(0.5 + 0.25 * n for n in range(8)))
    failed = result(event_times_s=(0.5, 0.75), error="http_429")
    empty = result(sent_s=0.0)
    assert [slo.met_by(s) for s in (good, late, slow, long, failed, empty)] == [True, *[False] * 5]
    figures = summary([RunResult([good, late, failed], 2.0)], slo)
    assert (figures["goodput_per_s"], figures["slo_kept"]) == (0.5, 0.3333)


def test_errors_are_counted_by_kind_and_have_no_latencies() -> None:
    run = RunResult(
        [
            result(event_times_s=(0.5,)),
            result(error="http_429"),
            result(error="timeout", event_times_s=(9.0,)),
        ],
        1.0,
    )
    figures = summary([run], Slo())
    assert figures["errors"] == {"http_429": 1, "timeout": 1}
    assert figures["ttft_ms"]["p99"] == 500
    assert figures["output_tokens"] == 1


def test_a_report_has_totals_tenants_and_adapters() -> None:
    results = [result(event_times_s=(0.5,)), result("globex", event_times_s=(0.1, 0.2)), result()]
    run = RunResult(results, 1.0)
    figures = report([run], Slo())
    assert set(figures) == {"seconds", "total", "tenants", "adapters", "client_late_p99_ms"}
    assert {name: row["requests"] for name, row in figures["tenants"].items()} == {"acme": 2, "globex": 1}
    assert set(figures["adapters"]) == {"acme-x", "globex-x"}
    assert figures["total"]["requests"] == 3


def test_a_run_without_any_request_can_be_reported(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report([RunResult([], 1.0)], Slo())
    assert figures["total"]["ttft_ms"] == {"p50": None, "p90": None, "p99": None}
    print_table(figures, "nothing")
    assert "nothing" in capsys.readouterr().out


def test_late_sending_is_reported() -> None:
    late = RequestResult(0, "acme", "m", sent_s=1.5, due_s=1.0)
    assert report([RunResult([late], 2.0)], Slo())["client_late_p99_ms"] == 500


def test_ratios_are_medians_of_ours_over_theirs() -> None:
    def run(tokens: int, ttft_s: float) -> RunResult:
        return RunResult([result(event_times_s=(ttft_s, *[0.9] * (tokens - 1)))], 1.0)

    runs = {
        "loragate": [run(20, 0.1), run(30, 0.2), run(5, 0.4)],
        "stock": [run(10, 0.2), run(10, 0.2), run(10, 0.2)],
    }
    found = ratios(runs, "stock", "gateway_vs_stock")
    assert found["gateway_vs_stock_throughput"] == 2
    assert found["gateway_vs_stock_ttft_p50"] == 1


def test_a_ratio_without_figures_is_left_out() -> None:
    assert ratios({"loragate": [RunResult([], 1)], "stock": [RunResult([], 1)]}, "stock", "x") == {}


@pytest.mark.parametrize(
    ("sign", "value", "kept"), [("<=", 1.0, True), ("<=", 1.1, False), (">=", 0.9, False)]
)
def test_bounds(sign: str, value: float, kept: bool) -> None:
    assert holds(value, sign, 1.0) is kept


def test_a_missing_figure_does_not_hold_its_bound() -> None:
    bounds = {"ratio": ("<=", 1.0)}
    assert [exit_code(figures, bounds) for figures in ({"ratio": 1.0}, {"ratio": 1.1}, {})] == [0, 1, 1]


def test_a_missed_bound_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures({"good": 0.5, "bad": 2.0}, {"good": ("<=", 1.0), "bad": ("<=", 1.0)})
    lines = capsys.readouterr().out.splitlines()
    assert next("ok" in line for line in lines if "good" in line)
    assert next("MISSED" in line for line in lines if "bad" in line)


def test_the_last_line_is_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = report([RunResult([result(event_times_s=(0.5,))], 1.0)], Slo())
    print_json(figures, tmp_path / "out" / "figures.json")
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == figures == json.loads((tmp_path / "out" / "figures.json").read_text())
    assert ", " not in last
