"""Tenants take turns, within the bounds of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.workers.errors import WorkRefused
from server.engine.workers.job_queue import JobQueue


def test_tenants_take_turns() -> None:
    turns: JobQueue[str] = JobQueue(per_tenant=9, waiting_per_tenant=9)
    for job in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(job[0], job)
    assert [turns.next() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_a_tenant_at_its_bound_is_passed_over() -> None:
    turns: JobQueue[str] = JobQueue(per_tenant=1, waiting_per_tenant=9)
    for job in ("a1", "a2", "b1"):
        turns.add(job[0], job)
    assert [turns.next(), turns.next(), turns.next()] == ["a1", "b1", None]
    turns.done("a")
    assert turns.next() == "a2"


def test_a_full_tenant_is_refused_and_others_are_not() -> None:
    turns: JobQueue[str] = JobQueue(per_tenant=1, waiting_per_tenant=2)
    turns.add("a", "a1")
    turns.add("a", "a2")
    with pytest.raises(WorkRefused) as refused:
        turns.add("a", "a3")
    assert refused.value.waiting == 2
    turns.add("b", "b1")
    assert len(turns) == 3


def test_a_dropped_job_never_runs() -> None:
    turns: JobQueue[str] = JobQueue(per_tenant=2, waiting_per_tenant=2)
    turns.add("a", "a1")
    turns.add("a", "a2")
    turns.drop("a", "a1")
    turns.drop("a", "unknown")
    turns.drop("nobody", "a2")
    assert [turns.next(), turns.next()] == ["a2", None]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "next", "done"]))))
def test_no_tenant_exceeds_its_bounds_and_no_job_is_lost(steps: list[tuple[str, str]]) -> None:
    turns: JobQueue[tuple[str, int]] = JobQueue(per_tenant=2, waiting_per_tenant=3)
    running: list[tuple[str, int]] = []
    added = ended = 0
    for number, (tenant, step) in enumerate(steps):
        if step == "add":
            try:
                turns.add(tenant, (tenant, number))
            except WorkRefused:
                continue
            added += 1
        elif step == "next" and (job := turns.next()) is not None:
            running.append(job)
        elif step == "done" and (job := next((j for j in running if j[0] == tenant), None)):
            running.remove(job)
            turns.done(tenant)
            ended += 1
        assert all(sum(job[0] == name for job in running) <= 2 for name in "abc")
        assert added == len(turns) + len(running) + ended
