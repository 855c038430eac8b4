"""The scheduler is read seldom and never waited for long, and every tenant has a row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.fairness.shares import Capacity
from server.observability import scheduler_stats as module
from server.observability.scheduler_stats import SchedulerStats, operator_row, tenant_rows

CAPACITY = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8)
REPORT: dict[str, Any] = {
    "tenants": {
        "acme": {"running": 2, "waiting": 1, "kv_blocks": 7},
        "": {"running": 1, "waiting": 0, "kv_blocks": 1},
    }
}


class Scheduler:
    """Answers after `delay_s`, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.delay_s = 0.0
        self.answer: dict[str, Any] | None = REPORT

    async def read(self) -> dict[str, Any] | None:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        return self.answer


async def test_many_consoles_ask_the_scheduler_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler()
    stats = SchedulerStats(scheduler.read)
    scheduler.delay_s = 0.01
    assert await asyncio.gather(*(stats.latest() for _ in range(20))) == [REPORT] * 20
    assert scheduler.asked == 1
    monkeypatch.setattr(module, "MAX_AGE_S", 0.0)
    scheduler.answer = None
    assert await stats.latest() is None and scheduler.asked == 2


async def test_a_busy_scheduler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(module, "REPORT_TIMEOUT_S", 0.02)
    scheduler = Scheduler()
    stats = SchedulerStats(scheduler.read)
    assert await stats.latest() == REPORT
    scheduler.delay_s, scheduler.answer = 30.0, None
    async with asyncio.timeout(5):
        assert await stats.latest() == REPORT, "what was known before"


async def test_a_reader_that_needs_the_newest_report_gets_it_or_an_error() -> None:
    scheduler = Scheduler()
    stats = SchedulerStats(scheduler.read)
    assert await stats.read(max_age_s=0.0, timeout_s=1.0) == REPORT
    assert await stats.latest() == REPORT and scheduler.asked == 1, "it serves the others too"
    assert await stats.read(max_age_s=0.0, timeout_s=1.0) == REPORT and scheduler.asked == 2
    scheduler.delay_s = 30.0
    with pytest.raises(TimeoutError):
        await stats.read(max_age_s=0.0, timeout_s=0.01)
    assert await stats.latest() == REPORT, "the report before is kept"


async def test_one_reader_at_a_time_and_each_waits_its_own_time() -> None:
    scheduler = Scheduler()
    scheduler.delay_s = 0.2
    stats = SchedulerStats(scheduler.read)
    patient = asyncio.create_task(stats.read(max_age_s=0.0, timeout_s=5.0))
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await stats.read(max_age_s=0.0, timeout_s=0.01)
    assert scheduler.asked == 1
    assert await patient == REPORT


async def test_the_report_of_a_dead_engine_is_not_shown() -> None:
    scheduler = Scheduler()
    stats = SchedulerStats(scheduler.read)
    assert await stats.latest() == REPORT
    stats.engine_started()
    scheduler.answer = None
    assert await stats.latest() is None and stats.engine_starts == 1


def test_a_tenant_without_requests_has_a_row_too() -> None:
    tenants = [
        Tenant("acme", TenantSettings(kv_guarantee=0.25, kv_limit=0.5)),
        Tenant("globex", TenantSettings(weight=3.0)),
    ]
    acme, globex = tenant_rows(REPORT, tenants, CAPACITY)
    assert acme == {
        "tenant": "acme", "running": 2, "waiting": 1, "kv_blocks": 7,
        "guaranteed_blocks": 25, "limit_blocks": 50, "weight": 1.0,
    }  # fmt: skip
    assert (globex["running"], globex["kv_blocks"], globex["limit_blocks"]) == (0, 0, 100)
    assert operator_row(REPORT, CAPACITY)["running"] == 1
    assert tenant_rows(None, tenants, CAPACITY)[0]["kv_blocks"] == 0
