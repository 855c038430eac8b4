"""The last hour and day, in steps: counts, times to the first token, gauges, and a bound on the memory."""

from __future__ import annotations

from typing import Any

import pytest
from manual_clock import ManualClock

from server.observability.history import MAX_SERIES, SPANS, Finished, History
from server.request.latency_histogram import LATENCY_BOUNDS_S, LatencyHistogram, quantile


def points(history: History, span: Any, *who: str | None) -> tuple[int, list[dict[str, Any]]]:
    """The steps as the admin API shows them."""
    begins_s, steps = history.steps(span, *who)
    return begins_s, [step.point() for step in steps]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def history(clock: ManualClock) -> History:
    return History(clock)


def test_a_request_counts_for_all_its_tenant_and_its_adapter(history: History) -> None:
    history.note(Finished("acme", "support", failed=False, prompt_tokens=7, generated_tokens=5, ttft_s=0.3))
    history.note(Finished("acme", "", failed=True))
    history.note(Finished("globex", "tools", failed=False, generated_tokens=2))
    seen = {
        who: points(history, "hour", *who)[1][-1]
        for who in [
            (None, None),
            ("acme", None),
            ("acme", "support"),
            ("acme", ""),
            ("globex", None),
            ("x", None),
        ]
    }
    counts = {
        who: (point["requests"], point["errors"], point["generated_tokens"]) for who, point in seen.items()
    }
    assert counts == {
        (None, None): (3, 1, 7), ("acme", None): (2, 1, 5), ("acme", "support"): (1, 0, 5),
        ("acme", ""): (1, 1, 0), ("globex", None): (1, 0, 2), ("x", None): (0, 0, 0),
    }  # fmt: skip
    assert 0.25 < seen["acme", "support"]["ttft_p50_s"] <= 0.5
    assert seen["globex", None]["ttft_p50_s"] is None
    assert history.adapters() == [("acme", ""), ("acme", "support"), ("globex", "tools")]
    assert history.adapters("globex") == [("globex", "tools")]


@pytest.mark.parametrize("span", ["hour", "day"])
def test_steps_move_on_and_old_ones_are_forgotten(history: History, clock: ManualClock, span: str) -> None:
    shape = SPANS[span]  # type: ignore[index]
    history.note(Finished("acme", "", failed=False))
    clock.now_s += shape.step_s
    history.note(Finished("acme", "", failed=False))
    begins_s, shown = points(history, span)
    assert [point["requests"] for point in shown[-3:]] == [0, 1, 1] and len(shown) == shape.steps
    assert begins_s + shape.steps * shape.step_s > clock.now_s >= begins_s + (shape.steps - 1) * shape.step_s
    for _ in range(3 * shape.steps):
        clock.now_s += shape.step_s
        history.note(Finished("acme", "", failed=False))
    assert len(history._total.steps[span]) <= shape.steps  # type: ignore[index]
    clock.now_s += shape.steps * shape.step_s
    assert not any(point["requests"] for point in points(history, span)[1])


def test_gauges_keep_the_largest_value_of_a_step(history: History) -> None:
    history.sample({"acme": {"running": 2, "waiting": 1, "kv_blocks": 9}, "globex": {"running": 1}})
    history.sample({"acme": {"running": 1, "waiting": 4, "kv_blocks": 3}})
    (acme, total) = (points(history, "hour", who)[1][-1] for who in ("acme", None))
    assert [acme[name] for name in ("running", "waiting", "kv_blocks")] == [2, 4, 9]
    assert [total[name] for name in ("running", "waiting", "kv_blocks")] == [3, 4, 9]


def test_tenants_are_bounded_and_those_in_use_stay(history: History) -> None:
    for number in range(2 * MAX_SERIES):
        history.note(Finished("busy", "", failed=False))
        history.note(Finished(f"t{number}", "x", failed=False))
    assert len(history._series) == MAX_SERIES
    assert points(history, "hour", "busy")[1][-1]["requests"] == 2 * MAX_SERIES
    assert points(history, "hour")[1][-1]["requests"] == 4 * MAX_SERIES


def test_quantiles_are_within_their_bucket() -> None:
    values = LatencyHistogram(LATENCY_BOUNDS_S)
    assert quantile(values, 0.5) is None and quantile(None, 0.5) is None
    for value in (0.02, 0.02, 0.2, 0.2):
        values.add(value)
    assert quantile(values, 0.5) == 0.025 and quantile(values, 1.0) == 0.25
    values.add(1e6)
    assert quantile(values, 1.0) == LATENCY_BOUNDS_S[-1]
