"""How the arbiter splits a step's tokens among the prompts of different tenants."""

from __future__ import annotations

import pytest

from adapters.tenant_settings import TenantSettings
from server.fairness.shares import Capacity
from tests.unit.server.fairness.simulation import Job, SimEngine


@pytest.fixture
def engine() -> SimEngine:
    return SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=8))


def cap(engine: SimEngine, tokens: int, **prefilling: list[int]) -> int:
    def prompt_tokens(job: Job) -> int:
        return job.prompt

    return engine.arbiter.prefill_cap(tokens, prefilling, prompt_tokens)


def test_waiting_tenants_share_the_step(engine: SimEngine) -> None:
    engine.add("a", TenantSettings(), 30, 1)
    assert cap(engine, 20) == 0, "a single tenant gets all"
    engine.add("b", TenantSettings(), 60, 1)
    assert cap(engine, 50) == 25
    assert cap(engine, 70) == 40, "the small prompt leaves the rest"
    assert cap(engine, 90) == 0, "all fit"
    engine.add("b", TenantSettings(), 60, 1)
    assert cap(engine, 90) == 0, "only the first of each tenant counts"


def test_running_prompts_share_it_with_the_first_waiting_one_of_each_other_tenant(
    engine: SimEngine,
) -> None:
    assert cap(engine, 60, a=[50, 50]) == 0, "a single tenant gets all"
    engine.add("a", TenantSettings(), 40, 1)
    assert cap(engine, 60, a=[50]) == 0, "and its own waiting prompts do not count"
    assert cap(engine, 60, a=[50], b=[20]) == 40
    engine.add("c", TenantSettings(), 40, 1)
    assert cap(engine, 60, a=[50]) == 30
    assert cap(engine, 60, a=[50], b=[20]) == 20
    assert cap(engine, 60, a=[50, 10], b=[20]) == 16


@pytest.mark.parametrize(("slots", "expected"), [(-1, 0), (0, 0), (1, 30), (2, 20), (3, 20)])
def test_who_has_no_slot_gets_no_tokens(
    engine: SimEngine, monkeypatch: pytest.MonkeyPatch, slots: int, expected: int
) -> None:
    for tenant in ("b", "c"):
        engine.add(tenant, TenantSettings(), 40, 1)
    monkeypatch.setattr(engine, "free_slots", lambda: slots)
    assert cap(engine, 60, a=[50]) == expected
    assert cap(engine, 60, a=[50], d=[50]) == (30 if slots < 1 else 20 if slots == 1 else 15)


def test_who_is_at_its_limit_gets_no_tokens(engine: SimEngine) -> None:
    limited = TenantSettings(kv_limit=0.2)
    engine.add("b", limited, 40, 9)
    engine.step()
    engine.add("b", limited, 40, 9)
    assert cap(engine, 60, a=[50]) == 0
    engine.add("c", TenantSettings(), 40, 9)
    assert cap(engine, 60, a=[50]) == 30


def test_a_waiting_tenant_with_nothing_to_start_gets_no_tokens(
    engine: SimEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add("b", TenantSettings(), 40, 1)
    monkeypatch.setattr(engine, "is_ready", lambda _: False)
    assert cap(engine, 60, a=[50]) == 0
