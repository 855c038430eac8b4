"""The usage of every tenant, adapter and version, written to the database (`UsageWriter`) within a second.

A request is tracked from the moment it holds its adapter. Its usage is written as it grows, not when the request
ends, so that a `kill -9` loses less than FLUSH_INTERVAL_S of usage, also of long streams.

KV block-seconds are the scheduler's own count per tenant (shared blocks count once). It does not know adapters, so a
tenant's block-seconds are divided over its adapters by their token-seconds: the sum per tenant is exact, the part of
an adapter is an estimate.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from adapters.models import Usage
from adapters.registry.database import utc_now
from server.errors import LoragateError
from server.observability.scheduler_stats import Report, SchedulerStats
from server.request.context import RequestContext

FLUSH_INTERVAL_S = 0.5
#: A scheduler in a long step answers after it; the flush does not wait for it.
REPORT_TIMEOUT_S = 0.25

#: (tenant, adapter, version); adapter "" and version 0 are the base model.
_Account = tuple[str, str, int]


class UsageStore(Protocol):
    """Where usage is written (`server.usage.writer.UsageWriter`)."""

    async def add(self, usage: Iterable[Usage]) -> None:
        """Write usage, or keep it until it can be written."""


@dataclass(slots=True, eq=False)
class _TrackedRequest:
    """One request, and how much of its usage is in the ledger already."""

    context: RequestContext
    account: _Account
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0
    counted: bool = False
    collected_at: float = 0.0

    def growth(self, hour: datetime, now: float) -> Usage:
        """The usage since the last call. A request counts once the engine has taken its prompt."""
        usage = self.context.usage
        entered = usage.prompt_tokens > 0
        queue_s = usage.queue_s or 0.0
        run_s = max(0.0, now - self.context.started_at - queue_s) if entered else 0.0
        grown = Usage(
            *self.account,
            hour,
            requests=int(entered and not self.counted),
            prompt_tokens=usage.prompt_tokens - self.prompt_tokens,
            cached_tokens=usage.cached_tokens - self.cached_tokens,
            generated_tokens=usage.generated_tokens - self.generated_tokens,
            queue_s=queue_s - self.queue_s,
            run_s=run_s - self.run_s,
            key=self.context.caller.key.account,
        )
        self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        self.generated_tokens, self.queue_s, self.run_s = usage.generated_tokens, queue_s, run_s
        self.counted = self.counted or entered
        return grown

    def token_seconds(self, now: float) -> float:
        """Tokens in the cache, times the seconds since the last call."""
        usage = self.context.usage
        since = self.collected_at or self.context.started_at
        self.collected_at = now
        return (usage.prompt_tokens + usage.generated_tokens) * max(0.0, now - since)


class Ledger:
    """Tracks requests and writes their usage.

    Args:
        store: where usage is written.
        scheduler_stats: the engine's block-seconds per tenant since it started.
        clock: monotonic seconds, as in `RequestContext.started_at`.
        now: wall-clock time, for the hours.
    """

    def __init__(
        self,
        store: UsageStore,
        scheduler_stats: SchedulerStats,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._scheduler_stats = scheduler_stats
        self._clock = clock
        self._now = now
        self._tracked: set[_TrackedRequest] = set()
        self._pending: list[Usage] = []
        self._token_seconds: defaultdict[_Account, float] = defaultdict(float)  # since the last division
        self._last_account: dict[str, _Account] = {}
        self._block_seconds: dict[str, float] = {}  # the part of the engine's count that is in the ledger
        self._engine_starts = 0  # the engine that counted them
        self._report_due = False  # the engine has worked since the last report

    @contextlib.contextmanager
    def track(self, context: RequestContext) -> Iterator[None]:
        """Count `context` until the end of the block; the rest of its usage is written with the next flush."""
        version, tenant = context.target.version, context.caller.tenant_name
        account = (tenant, version.adapter, version.number) if version else (tenant, "", 0)
        request = _TrackedRequest(context, account)
        self._tracked.add(request)
        try:
            yield
        finally:
            self._collect(request)
            self._tracked.discard(request)

    async def run(self) -> None:
        """Flush every FLUSH_INTERVAL_S until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write the usage since the last flush."""
        for request in self._tracked:
            self._collect(request)
        await self._collect_block_seconds()
        grown, self._pending = self._pending, []
        await self._store.add(grown)

    def _collect(self, request: _TrackedRequest) -> None:
        now = self._clock()
        request.context.usage.refresh()
        grown = request.growth(self._now(), now)
        token_seconds = request.token_seconds(now)
        if request.counted:
            self._pending.append(grown)
            self._report_due = True
            self._last_account[grown.tenant] = request.account
            self._token_seconds[request.account] += token_seconds

    async def _collect_block_seconds(self) -> None:
        if not self._report_due:
            return
        try:
            # Never a cached report: after the last request ended nobody would ask for its last block-seconds.
            report = await self._scheduler_stats.read(max_age_s=0.0, timeout_s=REPORT_TIMEOUT_S)
        except (TimeoutError, LoragateError):
            return
        if report is None:
            return
        self._report_due = bool(self._tracked)
        if self._engine_starts != self._scheduler_stats.engine_starts:  # a new engine counts from zero
            self._engine_starts = self._scheduler_stats.engine_starts
            self._block_seconds.clear()
        self._divide_new(report)

    def _divide_new(self, report: Report) -> None:
        for tenant, row in report["tenants"].items():
            count = row["kv_block_seconds"]
            before = self._block_seconds.get(tenant, 0.0)
            self._block_seconds[tenant] = count
            # Probes of new adapters run as tenant ""; they are not the operator's usage.
            if count > before and tenant in self._last_account:
                self._divide(tenant, count - before)

    def _divide(self, tenant: str, block_seconds: float) -> None:
        parts = {account: held for account, held in self._token_seconds.items() if account[0] == tenant}
        for account in parts:
            del self._token_seconds[account]
        if not sum(parts.values()):
            parts = {self._last_account[tenant]: 1.0}
        total = sum(parts.values())
        hour = self._now()
        self._pending += [
            Usage(*account, hour, kv_block_seconds=block_seconds * held / total)
            for account, held in parts.items()
        ]
