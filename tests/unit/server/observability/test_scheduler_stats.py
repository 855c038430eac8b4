"""SchedulerStats state: the scheduler is asked seldom and never waited for long, and every tenant has a row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.fairness.policy import Capacity
from server.observability import scheduler_stats as module
from server.observability.scheduler_stats import SchedulerStats, operator_row, rows

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
    live = SchedulerStats(scheduler.read)
    scheduler.delay_s = 0.01
    assert await asyncio.gather(*(live.report() for _ in range(20))) == [REPORT] * 20
    assert scheduler.asked == 1
    monkeypatch.setattr(module, "MAX_AGE_S", 0.0)
    scheduler.answer = None
    assert await live.report() is None and scheduler.asked == 2


async def test_a_busy_scheduler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(module, "REPORT_TIMEOUT_S", 0.02)
    scheduler = Scheduler()
    live = SchedulerStats(scheduler.read)
    assert await live.report() == REPORT
    scheduler.delay_s, scheduler.answer = 30.0, None
    async with asyncio.timeout(5):
        assert await live.report() == REPORT, "what was known before"


def test_a_tenant_without_requests_has_a_row_too() -> None:
    tenants = [
        Tenant("acme", TenantSettings(kv_guarantee=0.25, kv_limit=0.5)),
        Tenant("globex", TenantSettings(weight=3.0)),
    ]
    acme, globex = rows(REPORT, tenants, CAPACITY)
    assert acme == {
        "tenant": "acme", "running": 2, "waiting": 1, "kv_blocks": 7,
        "guaranteed_blocks": 25, "limit_blocks": 50, "weight": 1.0,
    }  # fmt: skip
    assert (globex["running"], globex["kv_blocks"], globex["limit_blocks"]) == (0, 0, 100)
    assert operator_row(REPORT, CAPACITY)["running"] == 1
    assert rows(None, tenants, CAPACITY)[0]["kv_blocks"] == 0
