"""What runs at this moment: the engine's share-out per tenant, for the console."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from adapters.models import Tenant
from server.fairness.policy import Capacity, Share

#: However many consoles are open, the scheduler is asked no more often than this.
MAX_AGE_S = 0.4
#: A scheduler in the middle of a long step answers after it; what was known before is shown meanwhile.
REPORT_TIMEOUT_S = 1.0

Report = Mapping[str, Any]


class SchedulerStats:
    """The scheduler's report, asked for at most every MAX_AGE_S and by one caller at a time."""

    def __init__(self, read: Callable[[], Awaitable[Report | None]]) -> None:
        self._read = read
        self._report: Report | None = None
        self._read_at = float("-inf")
        self._turn = asyncio.Lock()

    async def report(self) -> Report | None:
        """The newest report; None while no engine serves."""
        async with self._turn:
            if time.monotonic() - self._read_at >= MAX_AGE_S:
                try:
                    self._report = await asyncio.wait_for(self._read(), REPORT_TIMEOUT_S)
                except TimeoutError:
                    return self._report  # busy in one long step: soon told again
                self._read_at = time.monotonic()
        return self._report


def block_seconds(report: Report | None) -> dict[str, float] | None:
    """KV block-seconds per tenant since the engine started, for the ledger."""
    return {name: row["kv_block_seconds"] for name, row in report["tenants"].items()} if report else None


def rows(report: Report | None, tenants: Iterable[Tenant], capacity: Capacity) -> list[dict[str, Any]]:
    """One row per tenant, in the order given: `running`, `waiting`, and blocks of the KV cache."""
    counted: Mapping[str, Mapping[str, Any]] = report["tenants"] if report else {}
    return [
        _row(tenant.name, Share.of(tenant.settings), counted.get(tenant.name, {}), capacity)
        for tenant in tenants
    ]


def operator_row(report: Report | None, capacity: Capacity) -> dict[str, Any]:
    """What operators' own requests and the probes of new adapters take; tenant ""."""
    counted: Mapping[str, Mapping[str, Any]] = report["tenants"] if report else {}
    return _row("", Share(), counted.get("", {}), capacity)


def _row(name: str, share: Share, counted: Mapping[str, Any], capacity: Capacity) -> dict[str, Any]:
    return {
        "tenant": name,
        "running": counted.get("running", 0),
        "waiting": counted.get("waiting", 0),
        "kv_blocks": counted.get("kv_blocks", 0),
        "guaranteed_blocks": capacity.guaranteed_blocks(share),
        "limit_blocks": capacity.limit_blocks(share),
        "weight": share.weight,
    }
