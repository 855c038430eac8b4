"""The scheduler's report: per tenant what runs, what waits, and how much of the KV cache it holds.

The ledger, the metrics and the console all read it here, so that the scheduler answers one of them at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from adapters.errors import EngineGone
from adapters.models import Tenant
from server.fairness.shares import Capacity, Share

#: A report of this age or less is not asked for again by a reader that does not need a newer one.
MAX_AGE_S = 0.4
#: A scheduler in a long step answers after it; until then `latest` returns the report before.
REPORT_TIMEOUT_S = 1.0

#: `server.engine.scheduling.scheduler_report` describes its fields.
Report = Mapping[str, Any]


class SchedulerStats:
    """The newest report, cached; one read at a time.

    Args:
        read: asks the scheduler; None while no engine serves.
    """

    def __init__(self, read: Callable[[], Awaitable[Report | None]]) -> None:
        self._read = read
        self._report: Report | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self.engine_starts = 0
        """Engines seen so far; each one counts from zero."""

    def engine_started(self) -> None:
        """Drop the report of the engine before."""
        self.engine_starts += 1
        self._report, self._read_at = None, float("-inf")

    async def read(self, *, max_age_s: float, timeout_s: float) -> Report | None:
        """A report that is at most `max_age_s` old; None while no engine serves.

        Raises:
            TimeoutError: neither the readers before nor the scheduler were done within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s), self._reading:
            if max_age_s <= 0 or time.monotonic() - self._read_at > max_age_s:
                try:
                    self._report = await self._read()
                except EngineGone:
                    self._report = None
                self._read_at = time.monotonic()
            return self._report

    async def latest(self) -> Report | None:
        """The report of at most MAX_AGE_S ago, or the one before while the scheduler is busy."""
        try:
            return await self.read(max_age_s=MAX_AGE_S, timeout_s=REPORT_TIMEOUT_S)
        except TimeoutError:
            return self._report


def tenant_rows(report: Report | None, tenants: Iterable[Tenant], capacity: Capacity) -> list[dict[str, Any]]:
    """One row per tenant, in the order given: `running`, `waiting`, and blocks of the KV cache."""
    counts = _counts(report)
    return [
        _row(tenant.name, Share.of(tenant.settings), counts.get(tenant.name, {}), capacity)
        for tenant in tenants
    ]


def operator_row(report: Report | None, capacity: Capacity) -> dict[str, Any]:
    """What operators' own requests and the probes of new adapters use; tenant ""."""
    return _row("", Share(), _counts(report).get("", {}), capacity)


def _counts(report: Report | None) -> Mapping[str, Mapping[str, Any]]:
    return report["tenants"] if report else {}


def _row(name: str, share: Share, counts: Mapping[str, Any], capacity: Capacity) -> dict[str, Any]:
    return {
        "tenant": name,
        "running": counts.get("running", 0),
        "waiting": counts.get("waiting", 0),
        "kv_blocks": counts.get("kv_blocks", 0),
        "guaranteed_blocks": capacity.guaranteed_blocks(share),
        "limit_blocks": capacity.limit_blocks(share),
        "weight": share.weight,
    }
