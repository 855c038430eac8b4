"""The rotation of LoRA slots by itself; test_arbiter.py has it with requests."""

from __future__ import annotations

import random

import pytest

from server.fairness.lora_slots import LoraSlots


@pytest.mark.parametrize(("adapters", "slots"), [(2, 1), (3, 2), (10, 2), (12, 4), (5, 5)])
@pytest.mark.parametrize("step_s", [0.003, 0.05, 0.2])
def test_every_adapter_gets_a_slot_within_the_bound(adapters: int, slots: int, step_s: float) -> None:
    turns = LoraSlots(slots, wait_s=2.0)
    rng = random.Random(adapters * 100 + slots)
    running: set[int] = set()
    waiting_since = dict.fromkeys(range(1, adapters + 1), 0.0)
    longest_s = now = 0.0
    while now < 20:
        now += step_s
        for adapter in turns.rotate(waiting_since.keys() if turns.full else set(), now):
            turns.stop(adapter)
            running.remove(adapter)
            waiting_since[adapter] = now
        for adapter in rng.sample(sorted(waiting_since), len(waiting_since)):
            if turns.can_start(adapter):
                turns.start(adapter, now)
                running.add(adapter)
                longest_s = max(longest_s, now - waiting_since.pop(adapter))
        assert len(running) <= slots
    longest_s = max([longest_s, *(now - since for since in waiting_since.values())])
    assert longest_s <= 2.0 + step_s
    if adapters <= slots:
        assert longest_s <= step_s


def test_a_slot_that_was_kept_for_a_request_that_vanished_is_free_again() -> None:
    turns = LoraSlots(1, wait_s=0.5)
    turns.start(1, 0.0)
    turns.rotate({2}, 0.0)
    assert turns.rotate({2}, 1.0) == [1]
    turns.stop(1)
    assert not turns.can_start(3)
    assert turns.rotate({3}, 1.0) == []
    assert turns.can_start(3)


def test_the_base_model_and_what_runs_may_start_in_full_slots() -> None:
    turns = LoraSlots(1, wait_s=1.0)
    assert not turns.full and turns.can_start(2)
    turns.start(0, 0.0)
    assert not turns.full, "the base model takes no slot"
    turns.start(1, 0.0)
    assert turns.full
    assert [turns.runs(adapter) for adapter in (0, 1, 2)] == [True, True, False]
    assert [turns.can_start(adapter) for adapter in (0, 1, 2)] == [True, True, False]


def test_a_slot_is_free_when_the_last_of_its_requests_stops() -> None:
    turns = LoraSlots(1, wait_s=1.0)
    for _ in range(2):
        turns.start(1, 0.0)
    turns.stop(1)
    assert turns.runs(1) and not turns.can_start(2)
    turns.stop(1)
    assert not turns.runs(1) and turns.can_start(2)


@pytest.mark.parametrize(
    ("slots", "blocked", "step_s", "turn_s"),
    [
        (1, 1, 0.25, 1.0),  # one round of waiting and one of the running adapter: 2 s / 2
        (1, 3, 0.0625, 0.5),
        (2, 2, 0.25, 1.0),
        (2, 3, 0.0625, 2 / 3),  # two rounds: 3 adapters do not fit into 2 slots
        (2, 6, 0.0625, 0.5),
        (1, 99, 0.0625, 0.1),  # no turn is shorter
        (1, 1, 0.75, 1.0),
        (1, 1, 5.0, 1.0),  # a step longer than a turn
    ],
)
def test_a_turn_ends_at_the_step_nearest_to_its_length(
    slots: int, blocked: int, step_s: float, turn_s: float
) -> None:
    now = 100.0
    turns = LoraSlots(slots, wait_s=2.0)
    for adapter in range(1, slots + 1):
        turns.start(adapter, now)
    wanted = set(range(slots + 1, slots + 1 + blocked))
    steps = next(n for n in range(99) if turns.rotate(wanted, now + n * step_s))
    assert steps == max(1, round(turn_s / step_s))


def test_after_exactly_a_turn_it_is_over() -> None:
    turns = LoraSlots(1, wait_s=2.0)
    turns.start(1, 0.0)
    assert turns.rotate({2}, 0.0) == []
    assert turns.rotate({2}, 0.25) == []
    assert turns.rotate({2}, 0.75) == [1], "a turn of 1 s, less half of the step's 0.5 s"


def test_who_has_just_started_keeps_its_slot_for_a_turn() -> None:
    turns = LoraSlots(1, wait_s=2.0)
    turns.start(1, 0.0)
    times = iter(n / 8 for n in range(99))
    began = next(now for now in times if turns.rotate({2, 3}, now))
    turns.stop(1)
    turns.start(2, began)
    ended = next(now for now in times if turns.rotate({1, 3}, now))
    assert ended - began == 0.625, "3 has waited as long as 2, and waits for 2's turn of 2/3 s"
    turns.stop(2)
    assert turns.can_start(3) and not turns.can_start(1)


def test_a_reserved_slot_is_taken_by_its_adapter() -> None:
    turns = LoraSlots(2, wait_s=1.0)
    for adapter in (1, 2):
        turns.start(adapter, 0.0)
    turns.rotate({3}, 0.0)
    assert turns.rotate({3}, 1.0) == [1]
    turns.stop(1)
    turns.start(3, 1.0)
    turns.stop(2)
    assert turns.can_start(4), "3 has one of the two slots, not both"


def test_who_is_not_wanted_waits_no_longer() -> None:
    turns = LoraSlots(1, wait_s=1.0)
    turns.start(1, 0.0)
    turns.rotate({2}, 0.0)
    turns.rotate(set(), 1.0)
    assert turns.rotate({2}, 50.0) == [], "it has waited since now"
    assert turns.rotate({2}, 51.0) == [1]
    turns.stop(1)
    assert not turns.can_start(3)
    turns.rotate(set(), 52.0)
    assert turns.can_start(3), "and its slot is free again"
