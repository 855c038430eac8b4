"""A canary that answers badly loses its traffic; one that does not keeps it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.lifecycle.canary import CanaryLimits, Outcome
from adapters.models import Alias, AliasTarget, Key, Rating, Role, Tenant, Version, VersionState
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.layers import Resolved
from server.background import canary_rollback as module
from server.background.canary_rollback import CanaryRollback
from server.request.context import Caller, RequestContext, Target
from server.request.metering import UsageCounters

NOW = datetime.now(UTC)
LIMITS = CanaryLimits({Outcome.ERROR: 0.2, Outcome.EMPTY: 0.2, Outcome.REPEATING: 0.2}, min_answers=10)
RATING_LIMITS = CanaryLimits({Outcome.DISLIKED: 0.5}, min_answers=5)


class Registry:
    """One alias, split 90:10 over versions 1 and 2."""

    def __init__(self) -> None:
        self.alias = Alias("acme", "support", 5, (AliasTarget(1, 90), AliasTarget(2, 10)))
        self.rolled_back: list[int] = []
        self.aliases = SimpleNamespace(get=self._get)

    async def _get(self, tenant: str, adapter: str) -> Alias:
        return self.alias

    async def split(
        self, tenant: str, adapter: str, targets: list[AliasTarget], *, by: Any, expected_generation: int
    ) -> None:
        assert [target.number for target in targets] == [1], "the stable version keeps the name"
        self.rolled_back.append(expected_generation)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def canaries(registry: Registry) -> CanaryRollback:
    fakes: Any = registry
    return CanaryRollback(fakes, fakes, LIMITS, RATING_LIMITS)


def context(number: int, usage: UsageCounters) -> RequestContext:
    key = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW)
    version = Version("acme", "support", number, number, VersionState.READY, "", NOW)
    caller = Caller(key, Tenant("acme"))
    target = Target("acme-support", version)
    return RequestContext(
        "r", Endpoint.CHAT, caller, target, Resolved({}, {}, ()), TenantSettings(), "s", usage=usage
    )


GOOD = UsageCounters(generated_tokens=20, finish_reasons=["stop"])
EMPTY = UsageCounters(generated_tokens=1, finish_reasons=["stop"])
LOOPING = UsageCounters(generated_tokens=90, finish_reasons=["repetition"])
CIRCLING = UsageCounters(generated_tokens=90, finish_reasons=["length"], answers_looped=1)
STEERED = UsageCounters(generated_tokens=90, finish_reasons=["stop"], answers_steered=1)
BROKEN_OFF = UsageCounters(generated_tokens=9)


def answer(
    canaries: CanaryRollback, number: int, count: int, usage: UsageCounters = GOOD, status: int = 200
) -> None:
    for _ in range(count):
        canaries.note(context(number, replace(usage)), status)


@pytest.mark.parametrize(
    ("usage", "status"),
    [(GOOD, 500), (EMPTY, 200), (LOOPING, 200), (CIRCLING, 200), (STEERED, 200), (BROKEN_OFF, 200)],
)
async def test_a_bad_canary_is_rolled_back(
    canaries: CanaryRollback, registry: Registry, usage: UsageCounters, status: int
) -> None:
    answer(canaries, 1, 90)
    answer(canaries, 2, 7)
    answer(canaries, 2, 3, usage, status)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [5]


async def test_a_good_one_is_not(canaries: CanaryRollback, registry: Registry) -> None:
    answer(canaries, 1, 90)
    answer(canaries, 2, 50)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == []


@pytest.mark.parametrize(("down", "expected"), [(5, [5]), (2, [])])
async def test_a_canary_that_users_dislike_is_rolled_back(
    canaries: CanaryRollback, registry: Registry, down: int, expected: list[int]
) -> None:
    versions = {number: context(number, GOOD).target.version for number in (1, 2)}
    for _ in range(20):
        canaries.rated("acme", versions[1], Rating.UP)
    for count in range(6):
        canaries.rated("acme", versions[2], Rating.DOWN if count < down else Rating.UP)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == expected


@pytest.mark.parametrize("status", [400, 404, 429, 499, 503])
async def test_what_is_nobodys_fault_is_not_counted(
    canaries: CanaryRollback, registry: Registry, status: int
) -> None:
    answer(canaries, 2, 50, GOOD, status)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == []


async def test_a_new_split_starts_counting_anew(canaries: CanaryRollback, registry: Registry) -> None:
    await canaries._judge(registry.alias)
    answer(canaries, 2, 50, GOOD, 500)
    await canaries._judge(replace(registry.alias, generation=6))
    await canaries._judge(replace(registry.alias, generation=6))
    assert registry.rolled_back == []


async def test_one_failure_of_the_database_does_not_end_the_watch(
    canaries: CanaryRollback, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr(module, "JUDGE_INTERVAL_S", 0.001)
    calls = 0

    async def flaky(tenant: str, adapter: str) -> Alias:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("gone")
        return registry.alias

    registry.aliases.get = flaky
    watching = asyncio.create_task(canaries.run())
    async with asyncio.timeout(5):
        while not registry.rolled_back:
            answer(canaries, 2, 20, GOOD, 500)
            await asyncio.sleep(0.005)
    watching.cancel()
    assert calls >= 2
