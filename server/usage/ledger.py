"""What every tenant, adapter and version has used; in the database within a second.

A request is watched from the moment it holds its adapter. What its usage shows is written as it grows, not when
the request ends, so that a `kill -9` loses less than FLUSH_INTERVAL_S of anything, long streams included.

KV block-seconds are the scheduler's own count per tenant (shared blocks count once). It knows no adapters, so what
came is divided over the tenant's adapters by the tokens that their requests held and for how long: exact per tenant,
an estimate within it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError
from adapters.models import Tenant, Usage
from adapters.registry.database import utc_now
from adapters.tenant_settings import BudgetPeriod, TenantSettings
from server.errors import LoragateError
from server.request.context import RequestContext

logger = logging.getLogger("loragate.ledger")

FLUSH_INTERVAL_S = 0.5
#: A scheduler in the middle of a long step answers after it; the flush does not wait for that.
REPORT_TIMEOUT_S = 0.25

#: (tenant, adapter, version); adapter "" and version 0 are the base model.
_Account = tuple[str, str, int]


class Table(Protocol):
    """The ledger's part of the registry (`adapters.registry.usage.UsageLedger`)."""

    async def add(self, batch: Iterable[Usage]) -> None:
        """Add a batch in one transaction."""

    async def tokens_since(self, since: datetime) -> dict[str, int]:
        """Tokens per tenant since the hour of `since`."""


class Budgets(Protocol):
    """What takes the spent budgets over at start (`server.admission.Admission`)."""

    def restore_budget(self, tenant: str, settings: TenantSettings, *, used_tokens: int) -> None:
        """Set what the tenant has used in its present period."""


@dataclass(slots=True, eq=False)
class _Watched:
    """One request, and how much of it is in the ledger already."""

    context: RequestContext
    account: _Account
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0
    counted: bool = False
    held_at: float = 0.0

    def growth(self, hour: datetime, now: float) -> Usage:
        """What came since the last call. A request counts once the engine has taken it."""
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
        )
        self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        self.generated_tokens, self.queue_s, self.run_s = usage.generated_tokens, queue_s, run_s
        self.counted = self.counted or entered
        return grown

    def token_seconds(self, now: float) -> float:
        """Tokens in the cache times the time since the last call."""
        usage = self.context.usage
        since = self.held_at or self.context.started_at
        self.held_at = now
        return (usage.prompt_tokens + usage.generated_tokens) * max(0.0, now - since)


class Ledger:
    """Watches requests and writes what they use.

    Args:
        table: where it is written.
        block_seconds: the engine's count per tenant since it started, or None while it cannot be asked.
        clock: monotonic seconds, as in `RequestContext.started_at`.
        now: wall-clock time, for the hours.
    """

    def __init__(
        self,
        table: Table,
        block_seconds: Callable[[], Awaitable[Mapping[str, float] | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._table = table
        self._read_block_seconds = block_seconds
        self._clock = clock
        self._now = now
        self._watched: set[_Watched] = set()
        self._pending: list[Usage] = []
        self._held: dict[_Account, float] = {}  # token-seconds since the last division
        self._last_account: dict[str, _Account] = {}
        self._block_seconds: dict[str, float] = {}  # the engine's count, as far as it is in the ledger
        self._unasked = False  # the engine has worked since it was asked

    @contextlib.contextmanager
    def watch(self, context: RequestContext) -> Iterator[None]:
        """Count `context` until the end of the block; what is left of it is written with the next flush."""
        version, tenant = context.target.version, context.caller.tenant_name
        account = (tenant, version.adapter, version.number) if version else (tenant, "", 0)
        watched = _Watched(context, account)
        self._watched.add(watched)
        try:
            yield
        finally:
            self._collect(watched)
            self._watched.discard(watched)

    def start_over(self) -> None:
        """Another engine has started: its count begins at zero."""
        self._block_seconds.clear()

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what has come since the last time; what the database refuses now is tried again next time."""
        for watched in self._watched:
            self._collect(watched)
        await self._divide_block_seconds()
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            await self._table.add(batch)
        except (AdapterError, SQLAlchemyError):
            self._pending = batch + self._pending
            logger.exception("the usage ledger could not be written; it is tried again")

    async def restore(self, tenants: Iterable[Tenant], budgets: Budgets) -> None:
        """Let no restart give a tenant its budget back: before the first request, after `migrate`."""
        now = self._now()
        used = {period: await self._table.tokens_since(period_start(period, now)) for period in BudgetPeriod}
        for tenant in tenants:
            spent = used[tenant.settings.budget_period].get(tenant.name, 0)
            budgets.restore_budget(tenant.name, tenant.settings, used_tokens=spent)

    def _collect(self, watched: _Watched) -> None:
        now = self._clock()
        watched.context.usage.look()
        grown = watched.growth(self._now(), now)
        held = watched.token_seconds(now)
        if watched.counted:
            self._pending.append(grown)
            self._unasked = True
            self._last_account[grown.tenant] = watched.account
            self._held[watched.account] = self._held.get(watched.account, 0.0) + held

    async def _divide_block_seconds(self) -> None:
        if not self._unasked:
            return
        try:
            counts = await asyncio.wait_for(self._read_block_seconds(), REPORT_TIMEOUT_S)
        except (TimeoutError, LoragateError):
            return
        if counts is None:
            return
        self._unasked = bool(self._watched)
        for tenant, count in counts.items():
            before = self._block_seconds.get(tenant, 0.0)
            self._block_seconds[tenant] = count
            # The probes of new adapters run as nobody's; they are no usage of the operator's.
            if count > before and tenant in self._last_account:
                self._divide(tenant, count - before)

    def _divide(self, tenant: str, block_seconds: float) -> None:
        parts = {account: held for account, held in self._held.items() if account[0] == tenant}
        for account in parts:
            del self._held[account]
        if not sum(parts.values()):
            parts = {self._last_account[tenant]: 1.0}
        total = sum(parts.values())
        hour = self._now()
        self._pending += [
            Usage(*account, hour, kv_block_seconds=block_seconds * held / total)
            for account, held in parts.items()
        ]


def period_start(period: BudgetPeriod, now: datetime) -> datetime:
    """When the calendar day or month (UTC) that holds `now` began."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today if period is BudgetPeriod.DAY else today.replace(day=1)


#: What is added up, in the order of the export.
SUMS = tuple(f.name for f in fields(Usage) if f.name not in ("tenant", "adapter", "version", "hour"))
COLUMNS = ("from", "tenant", "adapter", "version", *SUMS)


def summed(entries: Iterable[Usage], by: str) -> list[dict[str, object]]:
    """Usage per hour, day or month, tenant, adapter and version, as plain rows, oldest first.

    Args:
        entries: what the table listed.
        by: hour, day or month; `from` in a row is where its step begins (UTC).
    """
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for entry in entries:
        begins = entry.hour if by == "hour" else period_start(BudgetPeriod(by), entry.hour)
        key = (begins, entry.tenant, entry.adapter, entry.version)
        fresh: dict[str, object] = {
            "from": begins.isoformat(),
            "tenant": entry.tenant,
            "adapter": entry.adapter,
            "version": entry.version,
            **dict.fromkeys(SUMS, 0),
        }
        row = rows.setdefault(key, fresh)
        row.update({name: row[name] + getattr(entry, name) for name in SUMS})
    return [_rounded(rows[key]) for key in sorted(rows, key=repr)]


def _rounded(row: dict[str, object]) -> dict[str, object]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
