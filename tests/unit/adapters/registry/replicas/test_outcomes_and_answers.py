"""What several servers count and remember together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from adapters.models import Alias, AliasTarget, VersionState
from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.replicas import outcomes
from adapters.registry.replicas.answers import AnswerRecord
from adapters.registry.schema import replica_tables
from tests.unit.adapters.lifecycle.support import BY

ALIAS = Alias("acme", "support", 3, (AliasTarget(1, 9), AliasTarget(2, 1)))
WHOLE = datetime(1970, 1, 1, tzinfo=UTC)


def minutes_ago(count: int) -> datetime:
    return utc_now() - timedelta(minutes=count)


async def age(registry: Registry, column: sa.Column[object], by: timedelta) -> None:
    async with registry.membership._database.write() as connection:
        rows = (await connection.execute(sa.select(column).where(column > WHOLE))).scalars().all()
        for row in rows:
            await connection.execute(
                sa.update(column.table).where(column == row).values({column.name: row - by})
            )


async def test_outcomes_of_all_servers_add_up(registry: Registry) -> None:
    for _ in range(2):
        await registry.outcomes.add(ALIAS, {(1, "answer.good"): 3, (2, "answer.error"): 1})
    await registry.outcomes.add(ALIAS, {})
    expected = {1: {"answer.good": 6}, 2: {"answer.error": 2}}
    assert await registry.outcomes.totals(ALIAS) == expected
    assert await registry.outcomes.totals(ALIAS, minutes_ago(10)) == expected


async def test_outcomes_of_other_adapters_do_not_count(registry: Registry) -> None:
    for tenant, adapter in (("globex", "support"), ("acme", "tools")):
        await registry.outcomes.add(Alias(tenant, adapter, 3, ALIAS.targets), {(1, "answer.good"): 3})
    assert await registry.outcomes.totals(ALIAS) == {}


async def test_outcomes_of_one_minute_are_one_row(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 3, 17, 12, 30, tzinfo=UTC)
    for moment in (noon + timedelta(seconds=1, microseconds=5), noon + timedelta(seconds=59)):
        monkeypatch.setattr(outcomes, "utc_now", lambda now=moment: now)
        await registry.outcomes.add(ALIAS, {(1, "answer.good"): 1})
    async with registry.membership._database.write() as connection:
        minutes = (await connection.execute(sa.select(replica_tables.outcomes.c.minute))).scalars().all()
    assert [minute for minute in minutes if minute.year > 1970] == [noon]  # the others are the sums


async def test_outcomes_under_another_split_do_not_count(registry: Registry) -> None:
    await registry.outcomes.add(ALIAS, {(2, "answer.error"): 1})
    later = Alias("acme", "support", 4, ALIAS.targets)
    assert (
        await registry.outcomes.totals(later) == {} == await registry.outcomes.totals(later, minutes_ago(10))
    )


async def test_a_window_ends_and_the_whole_stays_until_the_split_changes(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "folder x", by=BY)
    for state in (VersionState.FETCHED, VersionState.VERIFIED, VersionState.READY):
        version = await registry.versions.transition(version, state, by=BY)
    alias = await registry.aliases.set("acme", "support", (AliasTarget(1),), expected_generation=0, by=BY)
    counted = {1: {"answer.error": 1}}
    await registry.outcomes.add(alias, {(1, "answer.error"): 1})
    await age(registry, replica_tables.outcomes.c.minute, timedelta(minutes=11))
    await registry.outcomes.forget()
    assert await registry.outcomes.totals(alias, minutes_ago(10)) == {}
    assert await registry.outcomes.totals(alias, minutes_ago(30)) == counted
    await age(registry, replica_tables.outcomes.c.minute, timedelta(hours=1))
    await registry.outcomes.forget()
    assert await registry.outcomes.totals(alias, minutes_ago(600)) == {}
    assert await registry.outcomes.totals(alias) == counted
    await registry.aliases.set("acme", "support", (AliasTarget(1),), expected_generation=1, by=BY)
    await registry.outcomes.forget()
    assert await registry.outcomes.totals(alias) == {}


async def test_an_answer_is_found_by_its_caller_only(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "folder x", by=BY)
    await registry.answers.add([AnswerRecord("acme", "r1", version), AnswerRecord("acme", "r2", None)])
    assert await registry.answers.find("acme", ["chatcmpl-r1", "r1"]) == AnswerRecord("acme", "r1", version)
    assert await registry.answers.find("acme", ["r2"]) == AnswerRecord("acme", "r2", None)
    assert await registry.answers.find("globex", ["r1", "r2"]) is None
    assert await registry.answers.find("acme", ["r3"]) is None


async def test_feedback_on_a_blend_finds_the_blends_name(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "folder x", by=BY)
    blend = replace(version, adapter="support+tone", number=0)
    await registry.answers.add([AnswerRecord("acme", "r1", blend)])
    found = await registry.answers.find("acme", ["r1"])
    assert found is not None and found.version is not None
    assert (found.version.tenant, found.version.adapter, found.version.number) == ("acme", "support+tone", 0)


async def test_an_id_that_is_used_again_means_the_last_answer(registry: Registry) -> None:
    version = await registry.versions.register("acme", "support", "folder x", by=BY)
    for record in (AnswerRecord("", "r", None), AnswerRecord("", "r", version)):
        await registry.answers.add([record, record])
    found = await registry.answers.find("", ["r"])
    assert found is not None and found.version == version


async def test_an_answer_has_its_own_version_among_alike_ones(registry: Registry) -> None:
    versions = [
        await registry.versions.register(tenant, adapter, "folder x", by=BY)
        for tenant, adapter in (
            ("globex", "support"),
            ("acme", "tools"),
            ("acme", "support"),
            ("acme", "support"),
        )
    ]
    for number, version in enumerate(versions):
        await registry.answers.add([AnswerRecord("", f"r{number}", version)])
    for number, version in enumerate(versions):
        assert await registry.answers.find("", [f"r{number}"]) == AnswerRecord("", f"r{number}", version)


async def test_the_newest_of_several_answers_is_found(registry: Registry) -> None:
    for request_id in ("r2", "r1", "r3"):
        await registry.answers.add([AnswerRecord("acme", request_id, None)])
    assert await registry.answers.find("acme", ["r1", "r2"]) == AnswerRecord("acme", "r1", None)
    assert await registry.answers.find("acme", ["r3", "r2"]) == AnswerRecord("acme", "r3", None)


async def test_answers_are_kept_for_a_day(registry: Registry) -> None:
    await registry.answers.add([])
    await registry.answers.add([AnswerRecord("acme", "r1", None)])
    await age(registry, replica_tables.answers.c.at, timedelta(hours=23))
    await registry.answers.forget()
    assert await registry.answers.find("acme", ["r1"]) is not None
    await age(registry, replica_tables.answers.c.at, timedelta(hours=2))
    await registry.answers.forget()
    assert await registry.answers.find("acme", ["r1"]) is None
