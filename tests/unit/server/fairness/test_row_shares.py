"""How long steps are expected to last, and how sequences are shared out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.row_shares import RowShares, fair_level
from server.fairness.shares import Capacity, Share, background_name
from server.fairness.step_times import StepTimes
from server.fairness.waiting_queue import WaitingQueue


def learned(*, step_s: float, row_s: float, most: int = 64) -> StepTimes:
    times = StepTimes()
    for rows in range(1, most + 1):
        times.note(rows, step_s + row_s * rows, 0.0)
    return times


def test_before_the_first_step_nothing_is_expected() -> None:
    assert StepTimes().expected_s(3) is None


def test_a_step_is_expected_to_last_as_those_of_its_size() -> None:
    times = learned(step_s=0.010, row_s=0.001)
    for rows in (1, 5, 20, 40):
        assert times.expected_s(rows) == pytest.approx(0.010 + 0.001 * rows, rel=0.15)


def test_larger_steps_than_known_are_expected_as_the_largest_and_smaller_ones_on_a_line() -> None:
    times = StepTimes()
    times.note(16, 0.080, 0.0)
    assert times.expected_s(4) == pytest.approx(0.020)  # in proportion: nothing else is known
    assert times.expected_s(60) == pytest.approx(0.080)
    times.note(32, 0.112, 0.0)
    assert times.expected_s(4) == pytest.approx(0.056)
    times.note(64, 0.112, 0.0)
    assert times.expected_s(60) == pytest.approx(0.112)


def test_a_step_that_compiled_is_soon_forgotten() -> None:
    times = StepTimes()
    times.note(4, 10.0, 0.0)
    for _ in range(30):
        times.note(4, 0.02, 0.0)
    assert times.expected_s(4) == pytest.approx(0.02, rel=0.05)
    times.note(4, 10.0, 0.0)
    assert times.expected_s(4) == pytest.approx(0.02, rel=0.15)


def test_a_size_that_was_slow_is_tried_again_after_a_minute() -> None:
    times = StepTimes()
    times.note(64, 9.0, 0.0)
    for second in range(61):
        times.note(16, 0.02, float(second))
    assert times.expected_s(64) == pytest.approx(9.0)
    times.note(16, 0.02, 61.0)
    assert times.expected_s(64) == pytest.approx(0.02)


@given(
    steps=st.lists(st.tuples(st.integers(1, 512), st.floats(1e-4, 10.0)), min_size=1, max_size=60),
    rows=st.lists(st.integers(1, 600), min_size=2, max_size=2),
    seconds=st.floats(1e-4, 10.0),
)
def test_more_sequences_never_last_shorter(
    steps: list[tuple[int, float]], rows: list[int], seconds: float
) -> None:
    times = StepTimes()
    for count, lasted_s in steps:
        times.note(count, lasted_s, 0.0)
    low_s, high_s = (times.expected_s(count) for count in sorted(rows))
    assert low_s is not None and high_s is not None and low_s <= high_s * (1 + 1e-9)
    within = times.rows_within(seconds, 600)
    expected_s = times.expected_s(within)
    assert 1 <= within <= 600
    assert within == 1 or (expected_s is not None and expected_s <= seconds)


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=2),
        st.tuples(st.integers(1, 300), st.sampled_from([0.5, 1.0, 2.0, 4.0])),
        min_size=1,
        max_size=12,
    ),
    st.floats(0.01, 1.0),
)
def test_the_level_shares_out_all_and_no_more(tenants: dict[str, tuple[int, float]], part: float) -> None:
    rows = {name: count for name, (count, _) in tenants.items()}
    weights = {name: weight for name, (_, weight) in tenants.items()}
    within = part * sum(rows.values())
    level = fair_level(rows, weights, int(within))
    shared = sum(min(rows[name], level * weights[name]) for name in rows)
    assert shared == pytest.approx(int(within)) or (math.isinf(level) and shared <= within + 1)


def shares_of(
    running: dict[str, int], now_s: list[float], **share: float
) -> tuple[RowShares, BlockAccounting]:
    accounting = BlockAccounting(Capacity(1000, 16, 64), lambda: now_s[0])
    for tenant, count in running.items():
        for number in range(count):
            accounting.open(Allocation(f"{tenant}{number}", tenant, Share(**share), number, 0))
    shares = RowShares(WaitingQueue(), accounting)
    shares.times = learned(step_s=0.010, row_s=0.010)
    shares.begin_step()
    return shares, accounting


@pytest.mark.parametrize("running", [{"acme": 20, "globex": 20}, {"acme": 60}, {"acme": 1, "globex": 1}, {}])
def test_equal_tenants_and_one_alone_are_left_alone(running: dict[str, int]) -> None:
    shares, _ = shares_of(running, [0.0])
    assert shares.caps == {} and not shares.is_full("acme")


def test_only_the_tenant_with_many_is_held_back() -> None:
    shares, _ = shares_of({"acme": 50, "globex": 2, "initech": 3}, [0.0])
    assert shares.caps.keys() == {"acme"}
    assert 4 <= shares.caps["acme"] <= 12
    assert shares.is_full("acme") and not shares.is_full("globex")


def test_where_more_sequences_cost_nearly_nothing_all_are_computed() -> None:
    """As on a GPU, also if no small step was ever measured."""
    shares, _ = shares_of({"acme": 50, "globex": 2}, [0.0])
    assert shares.caps
    for rows, lasted_s in ((34, 0.019), (52, 0.020)):
        shares.times = StepTimes()
        shares.times.note(16, 0.018, 0.0)
        shares.times.note(rows, lasted_s, 0.0)
        shares.begin_step()
        assert shares.caps == {}


def test_what_a_guarantee_covers_is_never_held_back() -> None:
    shares, _ = shares_of({"acme": 50, "globex": 2}, [0.0], guarantee=0.5)
    assert shares.caps == {"acme": 32}


def test_the_background_is_not_counted() -> None:
    shares, _ = shares_of({"acme": 50, background_name("globex"): 1}, [0.0])
    assert shares.caps == {}


def test_a_tenant_that_was_active_a_moment_ago_counts_as_one() -> None:
    now_s = [0.0]
    shares, accounting = shares_of({"acme": 50, "globex": 1}, now_s)
    beside = shares.caps
    accounting.close("globex0")
    now_s[0] = 0.9
    shares.begin_step()
    assert shares.caps == beside
    now_s[0] = 2.0
    shares.begin_step()
    assert shares.caps == {}


@pytest.mark.parametrize(
    ("after_s", "new", "is_set"),
    [
        (0.05, ["acme50", "acme51"], False),
        (0.05, ["acme50", "acme51", "acme52", "acme53"], True),
        (0.05, ["initech0"], True),
        (0.15, [], True),
    ],
)
def test_the_caps_hold_until_something_changes(after_s: float, new: list[str], is_set: bool) -> None:
    now_s = [0.0]
    shares, accounting = shares_of({"acme": 50, "globex": 2}, now_s)
    before = shares.caps
    for number, name in enumerate(new):
        accounting.open(Allocation(name, name.rstrip("0123456789"), Share(), 100 + number, 0))
    now_s[0] = after_s
    shares.begin_step()
    assert (shares.caps is not before) == is_set
