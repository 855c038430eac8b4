"""How a waiting request stands against its tenant's budget, and what it costs to know."""

from __future__ import annotations

import pytest

from server.fairness.arbiter import Arbiter
from server.fairness.interfaces import BudgetStanding
from server.fairness.shares import Capacity, Share
from server.fairness.waiting_queue import Entry
from tests.unit.server.fairness.fixed_engine import Engine, Item

GUARANTEED, BORROWING, BACKGROUND, OVER_LIMIT = BudgetStanding

PLAIN = Share()
OWED = Share(guarantee=0.2)  # 20 blocks
LIMITED = Share(limit=0.4)  # 40 blocks, of which the running sequences reserve one each
BOTH = Share(guarantee=0.2, limit=0.4)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def arbiter(engine: Engine) -> Arbiter:
    return Arbiter(Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=10), engine)


def wait(arbiter: Arbiter, name: str, share: Share, item: Item) -> Entry:
    entry = Entry(name, "acme", share, 0, len(arbiter.queue), item)
    arbiter.enqueue(entry)
    return entry


def run(arbiter: Arbiter, share: Share, blocks: int) -> None:
    started = wait(arbiter, "running", share, Item(blocks, blocks))
    arbiter.start(started, range(blocks), blocks)
    arbiter.dequeue(started)


@pytest.mark.parametrize(
    ("share", "held", "full", "new", "standing", "asked"),
    [
        (PLAIN, 10, 90, 80, BORROWING, 0),
        (PLAIN, 10, 10, 1, BORROWING, 0),
        (OWED, 10, 10, 10, GUARANTEED, 0),
        (OWED, 10, 11, 10, GUARANTEED, 1),
        (OWED, 10, 11, 11, BORROWING, 1),
        (OWED, 19, 2, 1, GUARANTEED, 1),
        (OWED, 19, 3, 2, BORROWING, 1),
        (OWED, 20, 3, 1, BORROWING, 0),
        (LIMITED, 10, 28, 28, BORROWING, 0),
        (LIMITED, 10, 29, 28, BORROWING, 1),
        (LIMITED, 10, 29, 29, OVER_LIMIT, 1),
        (LIMITED, 37, 5, 1, BORROWING, 1),
        (LIMITED, 38, 5, 1, OVER_LIMIT, 0),
        (BOTH, 10, 29, 10, GUARANTEED, 1),
        (BOTH, 10, 29, 28, BORROWING, 1),
        (BOTH, 10, 29, 29, OVER_LIMIT, 1),
        (BOTH, 10, 12, 11, BORROWING, 1),
    ],
)
def test_the_exact_number_of_blocks_is_asked_for_only_if_it_matters(
    arbiter: Arbiter,
    engine: Engine,
    share: Share,
    held: int,
    full: int,
    new: int,
    standing: BudgetStanding,
    asked: int,
) -> None:
    run(arbiter, share, held)
    entry = wait(arbiter, "waiting", share, Item(full, new))
    for _ in range(2):
        assert arbiter.standing(entry) is standing
        assert engine.asked_blocks == asked, "and at most once"


def test_the_exact_number_belongs_to_one_request_and_one_step(arbiter: Arbiter, engine: Engine) -> None:
    run(arbiter, OWED, 10)
    small, large = (wait(arbiter, name, OWED, Item(20, new)) for name, new in (("s", 10), ("l", 11)))
    assert [arbiter.standing(entry) for entry in (small, large)] == [GUARANTEED, BORROWING]
    small.item.new_blocks = 11  # a block that it shared is no longer held
    arbiter.begin_step()
    assert arbiter.standing(small) is BORROWING


def test_a_tenants_only_request_has_the_limit_with_which_it_was_admitted(arbiter: Arbiter) -> None:
    admitted = wait(arbiter, "before", LIMITED, Item(41, 40))
    wait(arbiter, "after", Share(limit=0.1), Item(1, 1))
    assert arbiter.standing(admitted) is BORROWING
    admitted.item.new_blocks = 41
    arbiter.begin_step()
    assert arbiter.standing(admitted) is OVER_LIMIT


def test_what_is_not_ready_lets_the_next_one_start(arbiter: Arbiter) -> None:
    first = wait(arbiter, "first", PLAIN, Item(1, 1, is_ready=False))
    second = wait(arbiter, "second", PLAIN, Item(1, 1))
    assert arbiter.next() is second
    first.item.is_ready = True
    arbiter.begin_step()
    assert arbiter.next() is first
