"""Evaluations in the database: one for the same version, chats and options; turns are kept until then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.models import Actor, Version, VersionState
from adapters.promotion.errors import UnknownEvaluation
from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.figures import evaluations as module
from adapters.registry.figures.evaluations import Evaluation, EvaluationState, evaluation_id

BY = Actor("test")
OPTIONS = {"turns": 10, "max_tokens": 8}
DATA = "d" * 64


@pytest.fixture
async def version(registry: Registry) -> Version:
    return await registry.versions.register("acme", "support", "/x", by=BY)


def evaluation(version: Version, data: str = DATA, owner: str = "here", minute: int = 0) -> Evaluation:
    return Evaluation(
        evaluation_id(version, data, OPTIONS), "acme", "support", version.number, data, OPTIONS, "acme", "test",
        EvaluationState.RUNNING, owner, utc_now() + timedelta(minutes=minute),
    )  # fmt: skip


async def test_it_has_an_id_of_its_own_for_version_chats_and_options(version: Version) -> None:
    ids = {
        evaluation_id(version, DATA, OPTIONS),
        evaluation_id(version, "e" * 64, OPTIONS),
        evaluation_id(version, DATA, OPTIONS | {"turns": 11}),
        evaluation_id(replace(version, number=2), DATA, OPTIONS),
        evaluation_id(replace(version, digest="other"), DATA, OPTIONS),
    }
    assert len(ids) == 5
    assert evaluation_id(version, DATA, dict(reversed(OPTIONS.items()))) in ids


async def test_progress_and_figures(registry: Registry, version: Version) -> None:
    own, store = evaluation(version), registry.evaluations
    await store.begin(own, by=BY)
    await store.set_turns(own.id, 2)
    assert await store.add_facts(own, {0: {"loss": 1.0}})
    assert await store.add_facts(own, {0: {"loss": 9.0}, 1: {"loss": 2.0}}), "a turn is stored once"
    found = await store.get("acme", "support", own.id)
    assert (found.state, found.done, found.turns) == (EvaluationState.RUNNING, 2, 2)
    assert await store.facts(own.id) == {0: {"loss": 1.0}, 1: {"loss": 2.0}}
    await store.end(own, EvaluationState.FINISHED, figures={"loss": 1.5})
    found = await store.get("acme", "support", own.id)
    assert (found.state, found.done, found.figures) == (EvaluationState.FINISHED, 2, {"loss": 1.5})
    assert found.ended_at is not None
    assert await store.facts(own.id) == {}
    (audit,) = [each for each in await registry.audit.list() if each.action == "version.evaluate"]
    assert (audit.subject, audit.details["data"]) == ("acme-support@1", DATA)


async def test_begun_again_a_finished_one_stays_and_another_goes_on(
    registry: Registry, version: Version
) -> None:
    own, store = evaluation(version), registry.evaluations
    await store.begin(own, by=BY)
    await store.add_facts(own, {0: {"loss": 1.0}})
    await store.end(own, EvaluationState.FAILED, error="The budget is used up.")
    assert not await store.begin(own, by=BY), "there is one"
    failed = await store.find(own.id)
    assert await store.begin(replace(own, owner="there"), by=BY, seen=failed)
    assert not await store.begin(replace(own, owner="late"), by=BY, seen=failed), "another server was first"
    again = await store.find(own.id)
    assert again is not None
    assert (again.state, again.owner, again.error, again.done) == (EvaluationState.RUNNING, "there", None, 1)
    assert not await store.add_facts(own, {1: {"loss": 1.0}}), "its former server stops"
    await store.end(replace(own, owner="there"), EvaluationState.FINISHED, figures={"loss": 1.0})
    assert not await store.begin(own, by=BY, seen=again)
    finished = await store.get("acme", "support", own.id)
    assert finished.state is EvaluationState.FINISHED and not finished.lacks_judge


async def test_without_its_judge_it_is_begun_anew(registry: Registry, version: Version) -> None:
    own, store = evaluation(version), registry.evaluations
    await store.begin(own, by=BY)
    await store.end(own, EvaluationState.FINISHED, figures={"win_rate": None, "not_judged": "Why."})
    found = await store.get("acme", "support", own.id)
    assert found.lacks_judge
    assert await store.begin(own, by=BY, seen=found)
    again = await store.get("acme", "support", own.id)
    assert (again.state, again.figures, again.done) == (EvaluationState.RUNNING, None, 0)


async def test_the_evaluation_of_a_dead_server_ends_once_and_its_server_may_go_on(
    registry: Registry, version: Version
) -> None:
    own, store = evaluation(version, owner="dead"), registry.evaluations
    await store.begin(own, by=BY)
    assert await store.orphans(["dead", "here"]) == ()
    (orphan,) = await store.orphans(["here"])
    assert await store.lose(orphan) and not await store.lose(orphan)
    assert await store.orphans(["here"]) == ()
    (lost,) = await store.left([own.id])
    assert (lost.state, lost.error) == (EvaluationState.FAILED, module.LOST)
    assert await store.take_over(lost, "restarted") and not await store.take_over(lost, "other")
    found = await store.get("acme", "support", own.id)
    assert (found.state, found.owner, found.error) == (EvaluationState.RUNNING, "restarted", None)
    assert not await store.lose(orphan), "it is not as it was seen"
    await store.end(found, EvaluationState.FAILED, error="The chats are bad.")
    assert await store.left([own.id]) == ()


async def test_cancelled_it_takes_no_more_turns(registry: Registry, version: Version) -> None:
    own, store = evaluation(version), registry.evaluations
    await store.begin(own, by=BY)
    await store.cancel(own, by=BY)
    assert not await store.add_facts(own, {0: {}})
    await store.end(own, EvaluationState.FINISHED, figures={})
    assert (await store.get("acme", "support", own.id)).state is EvaluationState.CANCELLED
    await store.cancel(own, by=BY)
    assert sum(each.action == "version.cancel" for each in await registry.audit.list()) == 1
    assert await store.left([own.id]) == ()


async def test_it_belongs_to_its_adapter_and_goes_with_it(registry: Registry, version: Version) -> None:
    own = evaluation(version)
    await registry.evaluations.begin(own, by=BY)
    await registry.evaluations.add_facts(own, {0: {}})
    for tenant, adapter in (("globex", "support"), ("acme", "other")):
        with pytest.raises(UnknownEvaluation):
            await registry.evaluations.get(tenant, adapter, own.id)
        assert await registry.evaluations.list(tenant, adapter) == ()
    await registry.adapters.begin_removal("acme", "support", by=BY)
    await registry.tenants.remove("acme", by=BY)
    assert await registry.evaluations.find(own.id) is None


async def test_the_oldest_that_have_ended_are_removed(
    registry: Registry, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_PER_ADAPTER", 2)
    every = [evaluation(version, str(number) * 64, minute=number) for number in range(5)]
    await registry.evaluations.begin(every[0], by=BY)  # this one still runs
    for each in every[1:]:
        await registry.evaluations.begin(each, by=BY)
        await registry.evaluations.end(each, EvaluationState.FINISHED, figures={})
    await registry.evaluations.begin(evaluation(version, "x" * 64, minute=9), by=BY)
    left = [each.data_digest[0] for each in await registry.evaluations.list("acme", "support", limit=10)]
    assert left == ["x", "4", "3", "0"]


async def test_the_condition_of_an_adapter_survives(registry: Registry, version: Version) -> None:
    await registry.adapters.set_condition("acme", "support", "loss < 1", by=BY)
    assert (await registry.adapters.get("acme", "support")).adapter.condition == "loss < 1"
    await registry.adapters.set_condition("acme", "support", None, by=BY)
    assert (await registry.adapters.get("acme", "support")).adapter.condition is None
    entries = [
        each for each in await registry.audit.list(subject="acme-support") if "condition" in each.action
    ]
    assert [entry.details for entry in entries] == [{"if": None}, {"if": "loss < 1"}]
    assert version.state is VersionState.REGISTERED
