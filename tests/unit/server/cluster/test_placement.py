"""Which replica answers: holders with a slot, then the adapter's own order, then the least loaded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cluster.placement import HOMES, MIN_BOUND, load_bound, ranked, rendezvous_order
from server.cluster.replica_views import MAX_CHOICES, ReplicaReport, ReplicaViews, TrackedReplica


def replica(
    name: str, held: str = "", computing: str = "", *, in_flight: int = 0, slots: int = 2
) -> TrackedReplica:
    return TrackedReplica(name, slots, set(held), set(computing), others=in_flight)


def names(adapter: str | None, replicas: Sequence[TrackedReplica], session: str | None = None) -> list[str]:
    return [chosen.id for chosen in ranked(adapter, replicas, session=session)]


def test_a_holder_with_a_slot_comes_first_and_one_without_after_the_adapters_own_replicas() -> None:
    others = [replica(f"r{number}") for number in range(3)]
    full, free = replica("full", "a", "xy"), replica("free", "a", "x", in_flight=2)
    order = names("a", [full, *others, free])
    assert order[0] == "free" and order.index("full") > 1 and len(order) == 5


def test_an_adapter_that_computes_needs_no_new_slot() -> None:
    busy, idle = replica("busy", "a", "ax", in_flight=3), replica("idle")
    assert names("a", [idle, busy]) == ["busy", "idle"]


def test_of_two_holders_the_less_loaded_comes_first() -> None:
    assert names("a", [replica("r1", "a", in_flight=2), replica("r2", "a", in_flight=1)]) == ["r2", "r1"]


def test_a_holder_above_the_bound_is_last() -> None:
    hot = replica("hot", "a", "a", in_flight=MIN_BOUND)
    assert names("a", [hot, replica("r1"), replica("r2", in_flight=7)])[-1] == "hot"


def test_the_bound_is_half_above_the_mean_and_never_below_its_floor() -> None:
    assert load_bound([replica("r1")]) == MIN_BOUND
    assert load_bound([replica("r1", in_flight=20), replica("r2", in_flight=40)]) == 45


def test_the_base_model_goes_to_the_least_loaded() -> None:
    assert names(None, [replica("r1", in_flight=3), replica("r2", "a", "abc", in_flight=1)]) == ["r2", "r1"]


def test_only_some_load_an_adapter_while_its_holders_have_no_slot() -> None:
    replicas = [replica(f"r{number}") for number in range(HOMES + 3)] + [replica("full", "a", "xy")]
    assert names("a", replicas).index("full") == HOMES - ("full" in _order("a", replicas)[:HOMES])


def test_a_session_stays_on_one_holder_while_it_may() -> None:
    holders = [replica(f"r{number}", "a", in_flight=number) for number in range(6)]
    home = names("a", holders, "session")[0]
    assert {names("a", holders, f"session {number}")[0] for number in range(20)} != {home}
    for load in (0, MIN_BOUND - 1):
        next(r for r in holders if r.id == home).others = load
        assert names("a", holders, "session")[0] == home
    next(r for r in holders if r.id == home).others = 100
    assert names("a", holders, "session")[0] != home


def test_without_replicas_there_is_no_choice() -> None:
    assert names("a", []) == [] and list(ReplicaViews().choose("a")) == []


def test_the_others_keep_their_order_when_one_goes() -> None:
    ids = tuple(f"r{number}" for number in range(9))
    order = rendezvous_order("a", ids)
    for gone in ids:
        left = tuple(name for name in ids if name != gone)
        assert rendezvous_order("a", left) == tuple(name for name in order if name != gone)


views = st.builds(
    replica,
    name=st.uuids().map(str),
    held=st.text("abc", max_size=3),
    computing=st.text("abcxy", max_size=4),
    in_flight=st.integers(0, 40),
    slots=st.integers(1, 4),
)


@given(st.lists(views, min_size=1, max_size=12), st.sampled_from(["a", None]), st.sampled_from([None, "s"]))
def test_each_replica_is_given_once_and_those_below_the_bound_first(
    replicas: list[TrackedReplica], adapter: str | None, session: str | None
) -> None:
    order = list(ranked(adapter, replicas, session=session))
    assert sorted(r.id for r in order) == sorted(r.id for r in replicas)
    below = [r.in_flight < load_bound(replicas) for r in order]
    assert below == sorted(below, reverse=True)


def test_what_was_sent_counts_at_once_and_what_ended_no_more() -> None:
    router = ReplicaViews()
    router.update({name: ReplicaReport(slots=1) for name in ("r1", "r2")})
    first = next(router.choose("a"))
    with router.sent(first, "a"):
        assert (first.in_flight, first.held, first.computing) == (1, {"a"}, {"a"})
        assert next(router.choose("b")).id != first.id  # the only slot is taken
        router.update({name: ReplicaReport(slots=1) for name in ("r1", "r2")})  # made before the request came
        assert next(router.choose("a")) is first and first.in_flight == 1
    router.update({"r1": ReplicaReport(in_flight=3), "r2": ReplicaReport()})
    assert [r.in_flight for r in router.replicas] == [3, 0] and not any(r.held for r in router.replicas)


def test_others_requests_are_those_of_the_report_that_are_not_ours() -> None:
    router = ReplicaViews()
    router.update({"r1": ReplicaReport()})
    (only,) = router.replicas
    with router.sent(only, None), router.sent(only, None):
        router.update({"r1": ReplicaReport(in_flight=5)})
        assert only.in_flight == 5
    assert only.in_flight == 3


def test_neither_draining_nor_failed_nor_gone_replicas_are_chosen() -> None:
    router = ReplicaViews()
    router.update({f"r{n}": ReplicaReport(draining=n == 0) for n in range(MAX_CHOICES + 4)})
    chosen = {r.id for r in router.choose("a", exclude=lambda name: name == "r1")}
    assert len(chosen) == MAX_CHOICES and not chosen & {"r0", "r1"}
    router.update({"r0": ReplicaReport(), "r1": ReplicaReport()})
    assert {r.id for r in router.choose("a")} == {"r0", "r1"}


@pytest.mark.parametrize("adapter", ["a", None])
def test_only_what_is_read_is_computed(adapter: str | None) -> None:
    assert len(list(islice(ranked(adapter, [replica(f"r{n}", "a") for n in range(50)]), 1))) == 1


def _order(adapter: str, replicas: Sequence[TrackedReplica]) -> tuple[str, ...]:
    return rendezvous_order(adapter, tuple(r.id for r in replicas))
