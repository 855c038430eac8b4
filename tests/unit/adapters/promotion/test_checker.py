"""No version gets traffic whose figures do not meet the conditions, whoever asks and however."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from adapters.models import SYSTEM, Actor, AliasTarget, Tenant, VersionState
from adapters.promotion.checker import PromotionChecker
from adapters.promotion.errors import ConditionNotMet
from adapters.registry import Registry, connect
from adapters.registry.database import utc_now
from adapters.registry.figures.evaluations import Evaluation, EvaluationState, evaluation_id

BY = Actor("test")
DATA, OTHER_DATA = "d" * 64, "e" * 64
OPTIONS = {"turns": 10, "max_tokens": 8}


@pytest.fixture
async def registry(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    registry = Registry(engine)
    await registry.tenants.add(Tenant("acme"), by=SYSTEM)
    for number in (1, 2, 3):
        version = await registry.versions.register("acme", "support", "/x", by=SYSTEM)
        for state in (VersionState.FETCHED, VersionState.VERIFIED, VersionState.READY):
            version = await registry.versions.transition(version, state, by=SYSTEM)
        assert version.number == number
    await registry.aliases.set("acme", "support", [AliasTarget(1)], expected_generation=0, by=SYSTEM)
    yield registry
    await engine.dispose()


async def evaluated(registry: Registry, number: int, data: str = DATA, **figures: Any) -> Evaluation:
    version = await registry.versions.get("acme", "support", number)
    evaluation = Evaluation(
        evaluation_id(version, data, OPTIONS), "acme", "support", number, data, OPTIONS, "acme", "test",
        EvaluationState.RUNNING, "here", utc_now(),
    )  # fmt: skip
    await registry.evaluations.begin(evaluation, by=BY)
    await registry.evaluations.end(evaluation, EvaluationState.FINISHED, figures=figures)
    return evaluation


async def check(registry: Registry, *numbers: int, condition: str | None = None) -> Any:
    view = await registry.adapters.get("acme", "support")
    targets = [AliasTarget(number) for number in numbers]
    return await PromotionChecker(registry).check(view, targets, condition, by=BY)


async def test_without_a_condition_nothing_is_checked(registry: Registry) -> None:
    assert await check(registry, 2) is None


async def test_a_version_without_an_evaluation_is_refused(registry: Registry) -> None:
    with pytest.raises(
        ConditionNotMet, match=r"it has not been evaluated.*adapter evaluate acme-support@2 --data"
    ):
        await check(registry, 2, condition="loss < 1")


async def test_a_better_version_passes_and_a_worse_one_is_refused_by_its_figure(registry: Registry) -> None:
    await evaluated(registry, 1, loss=0.5)
    await evaluated(registry, 2, loss=0.4)
    await evaluated(registry, 3, loss=0.6)
    passed = await check(registry, 2, condition="loss < @current")
    assert passed["conditions"] == ["loss < @current"]
    assert {number: figures["loss"] for number, figures in passed["figures"].items()} == {"1": 0.5, "2": 0.4}
    with pytest.raises(ConditionNotMet, match=r"@current is version 1\): loss is 0.6, and @current is 0.5"):
        await check(registry, 3, condition="loss < @current")
    (entry,) = [e for e in await registry.audit.list(subject="acme-support") if e.action == "alias.refuse"]
    assert entry.details["figures"]["3"]["loss"] == 0.6
    assert "loss is 0.6" in entry.details["refused"]


async def test_versions_are_compared_on_the_same_chats_only(registry: Registry) -> None:
    await evaluated(registry, 1, DATA, loss=0.5)
    await evaluated(registry, 2, OTHER_DATA, loss=0.1)
    with pytest.raises(
        ConditionNotMet, match=r"version 1, the current one, has not been evaluated on the same chats"
    ):
        await check(registry, 2, condition="loss < @current")
    await evaluated(registry, 2, DATA, loss=0.7)
    with pytest.raises(ConditionNotMet, match=r"loss is 0.7"):
        await check(registry, 2, condition="loss < @current")
    assert await check(registry, 2, condition="loss < 1")


async def test_the_adapters_own_condition_holds_beside_that_of_the_promotion(registry: Registry) -> None:
    await registry.adapters.set_condition("acme", "support", "exact > 0.5", by=BY)
    await evaluated(registry, 2, exact=0.4, loss=0.1)
    with pytest.raises(ConditionNotMet, match=r"exact is 0.4"):
        await check(registry, 2)
    await evaluated(registry, 3, exact=0.6, loss=0.1)
    with pytest.raises(ConditionNotMet, match=r"loss is 0.1"):
        await check(registry, 3, condition="loss < 0.05")
    assert (await check(registry, 3, condition="loss < 1"))["conditions"] == ["exact > 0.5", "loss < 1"]


async def test_a_canary_is_checked_when_it_gets_its_first_traffic_and_when_it_gets_all(
    registry: Registry,
) -> None:
    await registry.adapters.set_condition("acme", "support", "loss < 1", by=BY)
    with pytest.raises(ConditionNotMet, match=r"acme-support@2 "):
        await check(registry, 1, 2)
    await evaluated(registry, 2, loss=0.5)
    assert await check(registry, 1, 2)
    both = [AliasTarget(1, 90), AliasTarget(2, 10)]
    await registry.aliases.set("acme", "support", both, expected_generation=1, by=BY)
    assert await check(registry, 2)
    assert await check(registry, 1) is None, "the current version needs no figures to go on"
    assert await check(registry, 1, 2) is None, "nor do other weights"


async def test_the_first_version_has_no_current_one_to_compare_with(registry: Registry) -> None:
    view = await registry.adapters.get("acme", "support")
    unserved = replace(view, alias=replace(view.alias, targets=()))
    await evaluated(registry, 1, loss=0.5)
    with pytest.raises(ConditionNotMet, match=r"no version has traffic"):
        await PromotionChecker(registry).check(unserved, [AliasTarget(1)], "loss < @current", by=BY)
