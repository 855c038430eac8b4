"""The registry's revision with a database that answers, fails, hangs and comes back."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from sqlalchemy.exc import ProgrammingError

from adapters.errors import RegistryUnavailable
from adapters.registry.outages import availability as module
from adapters.registry.outages.availability import (
    MAX_STALENESS_S,
    REFRESH_AGE_S,
    Availability,
    wait_within,
)


class Database:
    def __init__(self) -> None:
        self.now = 100.0
        self.revision = 7
        self.asked = 0
        self.fails = False
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def read(self) -> int:
        self.asked += 1
        if self.fails:
            raise RegistryUnavailable
        if self.error:
            raise self.error
        await self.answers.wait()
        return self.revision

    def availability(self, grace_s: float = 60.0) -> Availability:
        return Availability(self.read, grace_s=grace_s, clock=lambda: self.now)


async def test_one_query_answers_everybody_for_half_a_second() -> None:
    database = Database()
    availability = database.availability()
    assert set(await asyncio.gather(*(availability.state() for _ in range(20)))) == {1}
    database.now += REFRESH_AGE_S - 0.001
    assert await availability.state() == 1 and database.asked == 1
    database.now += MAX_STALENESS_S
    assert set(await asyncio.gather(*(availability.state() for _ in range(20)))) == {1}
    assert database.asked == 2
    assert (availability.away_s, availability.outage_s, availability.warning) == (0, 0, None)


async def test_nobody_waits_for_a_revision_that_is_read_again_in_time() -> None:
    database = Database()
    availability = database.availability()
    await availability.state()
    database.answers.clear()
    database.revision += 1
    database.now += REFRESH_AGE_S
    assert await asyncio.wait_for(availability.state(), 1) == 1
    await asyncio.sleep(0)
    assert await asyncio.wait_for(availability.state(), 1) == 1
    assert database.asked == 2, "one query for both"
    database.now += MAX_STALENESS_S - REFRESH_AGE_S
    waiting = asyncio.create_task(availability.state())
    await asyncio.sleep(0.01)
    assert not waiting.done(), "it is too old now"
    database.answers.set()
    assert await waiting == 2 and database.asked == 2


async def test_an_outage_is_measured_from_the_last_answer_and_told() -> None:
    database = Database()
    availability = database.availability()
    await availability.state()
    database.fails = True
    database.now += 12
    assert await availability.state() == 1
    assert availability.away_s == 12
    assert availability.warning == (
        "The registry's database has not answered for 12 s; keys and models that were in use are served for "
        "another 48 s."
    )
    database.now += 48
    with pytest.raises(RegistryUnavailable, match=r"the grace of 60 s is over, and no key can be checked\."):
        await availability.state()
    assert "the grace of 60 s is over" in str(availability.warning)
    database.fails = False
    assert await availability.state() == 1
    assert (availability.away_s, availability.outage_s, availability.warning) == (0, 60, None)


async def test_a_database_that_never_answered_has_no_grace() -> None:
    database = Database()
    database.fails = True
    availability = database.availability()
    with pytest.raises(RegistryUnavailable):
        await availability.state()
    assert availability.away_s == 0
    database.now += 3
    assert availability.away_s == 3


async def test_a_grace_of_zero_refuses_at_once() -> None:
    database = Database()
    availability = database.availability(grace_s=0)
    await availability.state()
    database.fails = True
    database.now += MAX_STALENESS_S
    with pytest.raises(RegistryUnavailable):
        await availability.state()


async def test_older_states_are_remembered_for_the_grace() -> None:
    database = Database()
    availability = database.availability()
    for number in range(5):
        assert await availability.state() == number + 1
        database.now += 20
        database.revision += 1
    # seen at 100, 120, 140, 160, 180; it is 200 now
    assert [state for state in range(7) if availability.in_grace(state)] == [4, 5]
    assert len(availability._seen_at) <= 4


async def test_a_restored_backup_is_another_state() -> None:
    """Its revision counts on from an older number, which other data had."""
    database = Database()
    availability = database.availability()
    states = []
    for revision in (7, 8, 6, 7, 8):
        database.revision = revision
        states.append(await availability.state())
        database.now += MAX_STALENESS_S
    assert states == [1, 2, 3, 4, 5]


async def test_a_database_without_our_tables_is_as_good_as_away() -> None:
    database = Database()
    availability = database.availability()
    await availability.state()
    database.error = ProgrammingError("select", {}, Exception('relation "counters" does not exist'))
    database.now += 10
    assert await availability.state() == 1 and availability.away_s == 10


async def test_while_it_is_watched_nobody_waits_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROBE_INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 0.05)
    database = Database()
    availability = database.availability()
    await availability.state()
    watching = asyncio.create_task(availability.run())
    await asyncio.sleep(0.03)
    assert database.asked > 1, "it is asked without requests"
    assert not availability.known_away
    database.answers.clear()
    database.now += 1
    async with asyncio.timeout(5):
        while not availability.known_away:
            await asyncio.sleep(0.01)
        asked = database.asked
        assert await availability.state() == 1
        assert database.asked == asked
        database.answers.set()
        while availability.known_away:
            await asyncio.sleep(0.01)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    database.fails = True
    database.now += 1
    await availability.state()
    assert availability.away_s and not availability.known_away, "nobody would notice the end of the outage"


async def test_within_does_not_wait_for_the_end_of_what_it_cancels() -> None:
    ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)
            ended.set()

    async with asyncio.timeout(0.15):
        with pytest.raises(RegistryUnavailable):
            await wait_within(0.01, stubborn())
    assert not ended.is_set()
    await asyncio.wait_for(ended.wait(), 5)
