"""A canary that answers badly loses its traffic; one that does not keeps it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import AliasConflict, RegistryUnavailable
from adapters.lifecycle.canary import CanaryLimits, Outcome
from adapters.models import Alias, AliasTarget, Key, Rating, Role, Tenant, Version, VersionState
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.background import canary_rollback as module
from server.background.canary_rollback import CanaryRollback
from server.request.context import Caller, RequestContext, Target, UsageCounters

NOW = datetime.now(UTC)
LIMITS = CanaryLimits(
    {Outcome.ERROR: 0.2, Outcome.EMPTY: 0.2, Outcome.REPEATING: 0.2, Outcome.DISLIKED: 0.5},
    min_answers=10,
    max_slowdown=2.0,
)


class Registry:
    """One alias, split 90:10 over versions 1 and 2."""

    def __init__(self) -> None:
        self.alias = Alias("acme", "support", 5, (AliasTarget(1, 90), AliasTarget(2, 10)))
        self.rolled_back: list[int] = []
        self.aliases = SimpleNamespace(get=self._get)
        self.membership = SimpleNamespace(is_shared=False)

    async def _get(self, tenant: str, adapter: str) -> Alias:
        return self.alias

    async def split(
        self,
        tenant: str,
        adapter: str,
        targets: list[AliasTarget],
        *,
        by: Any,
        expected_generation: int,
        reason: str,
    ) -> None:
        assert reason, "webhooks and the audit log get it"
        assert [target.number for target in targets] == [1], "the stable version keeps the name"
        self.rolled_back.append(expected_generation)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def canaries(registry: Registry) -> CanaryRollback:
    fakes: Any = registry
    return CanaryRollback(fakes, fakes, LIMITS)


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
    answer(canaries, 2, 4)
    answer(canaries, 2, 5, usage, status)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [], "so few answers prove nothing"
    answer(canaries, 2, 9, usage, status)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [5]


@pytest.mark.parametrize("usage", [EMPTY, LOOPING, CIRCLING, STEERED])
@pytest.mark.parametrize("how", ["form", "logit_bias", "allowed_token_ids"])
async def test_what_the_caller_has_forced_is_not_the_versions_fault(
    canaries: CanaryRollback, registry: Registry, usage: UsageCounters, how: str
) -> None:
    answer(canaries, 1, 90)
    forced = context(2, replace(usage, has_form=how == "form"))
    origins = {} if how == "form" else {how: "request"}
    for _ in range(10):
        canaries.note(replace(forced, sampling=Resolved({}, origins, ())), 200)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == []


async def test_a_form_does_not_hide_a_failure(canaries: CanaryRollback, registry: Registry) -> None:
    answer(canaries, 1, 90)
    answer(canaries, 2, 10, replace(BROKEN_OFF, has_form=True))
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [5]


async def test_a_good_one_is_not(canaries: CanaryRollback, registry: Registry) -> None:
    answer(canaries, 1, 90)
    answer(canaries, 2, 50)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == []


@pytest.mark.parametrize(("down", "expected"), [(19, [5]), (12, []), (2, [])])
async def test_a_canary_that_users_dislike_is_rolled_back(
    canaries: CanaryRollback, registry: Registry, down: int, expected: list[int]
) -> None:
    versions = {number: context(number, GOOD).target.version for number in (1, 2)}
    for _ in range(90):
        canaries.rated("acme", versions[1], Rating.UP)
    for count in range(20):
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


class SharedOutcomes:
    """The counts of all servers."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self.away = False
        self.asked: list[datetime | None] = []

    async def add(self, alias: Alias, counts: Counter[tuple[int, str]]) -> None:
        if self.away:
            raise RegistryUnavailable
        self.counts += counts

    async def totals(self, alias: Alias, since: datetime | None = None) -> dict[int, Counter[str]]:
        self.asked.append(since)
        found: dict[int, Counter[str]] = {}
        for (number, kind), count in self.counts.items():
            found.setdefault(number, Counter())[kind] = count
        return found


@pytest.fixture
def shared(registry: Registry) -> SharedOutcomes:
    registry.membership.is_shared = True
    registry.outcomes = SharedOutcomes()  # type: ignore[attr-defined]
    return registry.outcomes  # type: ignore[attr-defined]


async def test_servers_judge_by_the_answers_of_all(registry: Registry, shared: SharedOutcomes) -> None:
    fakes: Any = registry
    first, second = (CanaryRollback(fakes, fakes, LIMITS) for _ in range(2))
    answer(first, 1, 50)
    answer(first, 2, 5, GOOD, 500)  # of which each server saw too few to judge
    answer(second, 1, 40)
    answer(second, 2, 5, GOOD, 500)
    await first._judge(registry.alias)
    assert registry.rolled_back == []
    await second._judge(registry.alias)
    assert registry.rolled_back == [5]


async def test_outcomes_wait_for_the_database(registry: Registry, shared: SharedOutcomes) -> None:
    fakes: Any = registry
    canaries = CanaryRollback(fakes, fakes, LIMITS)
    answer(canaries, 2, 4)
    shared.away = True
    with pytest.raises(RegistryUnavailable):
        await canaries._judge(registry.alias)
    shared.away = False
    await canaries._judge(registry.alias)
    assert shared.counts == {(2, "answer.good"): 4}


async def test_a_late_failure_is_found_in_its_window(
    canaries: CanaryRollback, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
    registry.alias = replace(registry.alias, updated_at=began)
    now = began
    monkeypatch.setattr(module, "utc_now", lambda: now)
    for _ in range(6):
        answer(canaries, 1, 900)
        answer(canaries, 2, 100)
        await canaries._judge(registry.alias)
        now += timedelta(minutes=10)
    answer(canaries, 1, 180)
    answer(canaries, 2, 20, GOOD, 500)
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [5], "20 of 620 answers failed, all of them in this window"


async def test_all_servers_have_the_same_windows(
    registry: Registry, shared: SharedOutcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.alias = replace(registry.alias, updated_at=datetime(2026, 1, 1, 12, 3, 30, tzinfo=UTC))
    fakes: Any = registry
    for minute, start in ((4, 3), (13, 13), (32, 23)):
        monkeypatch.setattr(
            module,
            "utc_now",
            lambda minute=minute: NOW.replace(year=2026, month=1, day=1, hour=12, minute=minute, second=59),
        )
        await CanaryRollback(fakes, fakes, LIMITS)._judge(registry.alias)
        assert shared.asked[-2:] == [None, datetime(2026, 1, 1, 12, start, tzinfo=UTC)]


async def test_a_slow_canary_is_rolled_back(canaries: CanaryRollback, registry: Registry) -> None:
    for number, count, seconds in ((1, 90, 1.0), (2, 12, 1.9)):
        answer(canaries, number, count, replace(GOOD, held_at=5.0, last_token_at=5.0 + seconds))
    await canaries._judge(registry.alias)
    assert registry.rolled_back == []
    answer(canaries, 1, 200, replace(GOOD, held_at=5.0, last_token_at=6.0))
    answer(canaries, 2, 30, replace(GOOD, held_at=5.0, last_token_at=9.0))
    await canaries._judge(registry.alias)
    assert registry.rolled_back == [5]


async def test_a_rollback_that_another_server_was_quicker_with_is_no_error(
    registry: Registry, canaries: CanaryRollback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*arguments: Any, **options: Any) -> None:
        raise AliasConflict("acme-support", 5, 6)

    monkeypatch.setattr(registry, "split", lose)
    answer(canaries, 1, 90)
    answer(canaries, 2, 10, GOOD, 500)
    await canaries._judge(registry.alias)
    assert canaries.rollbacks == 0
