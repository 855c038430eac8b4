"""The simulation of placement: what it counts, and that its policies differ as they should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.placement.benchmark import LOADS, flat
from benchmarks.placement.policies import POLICIES
from benchmarks.placement.simulation import Figures, Setup, Simulation

SMALL = Setup(replicas=10, adapters=200, warm_up_s=20.0, end_s=40.0)


def run(policy: str, **changed: object) -> Figures:
    return Simulation(replace(SMALL, **changed), POLICIES[policy]).run()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def figures() -> dict[str, Figures]:
    return {policy: run(policy) for policy in POLICIES}


@pytest.mark.slow
def test_requests_come_at_the_rate_that_makes_the_load(figures: dict[str, Figures]) -> None:
    expected = 0.7 * 10 * 32 / 4.0 * 20
    assert all(abs(each.arrived - expected) < 0.1 * expected for each in figures.values())


@pytest.mark.slow
def test_ours_finds_adapters_in_memory_and_begins_sooner(figures: dict[str, Figures]) -> None:
    ours = figures.pop("loragate")
    assert ours.hit > figures["random"].hit + 0.2 and ours.served == max(
        ours.served, *(each.served for each in figures.values())
    )
    assert sum(ours.waits_s) / len(ours.waits_s) < min(
        sum(each.waits_s) / len(each.waits_s) for each in figures.values()
    )


def test_the_same_seed_gives_the_same_figures() -> None:
    again = run("power of two", end_s=25.0)
    assert again == run("power of two", end_s=25.0) != run("power of two", end_s=25.0, seed=2)


def test_replicas_that_hold_everything_and_have_room_wait_for_nothing() -> None:
    figures = run("loragate", adapters=6, slots=8, load=0.2)
    assert figures.hit > 0.99 and max(figures.waits_s) < 2.0 and figures.served > 0.99


def test_the_names_of_the_figures() -> None:
    one = {suffix: {"hit": 0.5} for suffix in LOADS}
    names = flat({"loragate": one, "plain hash": one})
    assert {"placement_hit", "placement_hit_16", "placement_hit_85", "plain_hash_hit_16_85"} <= names.keys()
