"""/admin/v1/usage: operators see all, a tenant's admin its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from adapters.models import Usage
from adapters.registry.database import utc_now
from adapters.tenant_settings import BudgetPeriod
from server.api.admin.models import KeyUsageRow, Listing, UsageRow
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.api.admin.sliced_listing import json_listing, slices, text
from server.request.context import Caller
from server.usage.aggregation import COLUMNS, KEY_COLUMNS, UsageSums, period_start

_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}
_Since = Annotated[datetime | None, Query(alias="from")]
_Until = Annotated[datetime | None, Query(alias="to")]
_Period = Literal["hour", "day", "month"]
_Shape = Annotated[Literal["json", "csv"], Query(alias="format")]


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of usage: /admin/v1/usage and /admin/v1/usage/keys."""
    routes = admin_router()
    ledger = services.registry.usage

    @routes.get("/usage", response_model=Listing[UsageRow], responses=_CSV)
    async def usage(
        tenant: str | None = None,
        since: _Since = None,
        until: _Until = None,
        by: _Period = "day",
        shape: _Shape = "json",
        caller: Caller = Depends(guard.manager),
    ) -> Response:
        """Usage and its cost per tenant, adapter and version; without `from`, since the beginning of the month."""
        tenant = seen_tenant(caller, tenant)
        entries = await ledger.list(since=start(since), until=in_utc(until), tenant=tenant)
        return await _answer(services, entries, by, shape, per_key=False)

    @routes.get("/usage/keys", response_model=Listing[KeyUsageRow], responses=_CSV)
    async def usage_of_keys(
        tenant: str | None = None,
        since: _Since = None,
        until: _Until = None,
        by: _Period = "day",
        shape: _Shape = "json",
        caller: Caller = Depends(guard.manager),
    ) -> Response:
        """Usage and its cost per key and adapter; `key` is the first id of a key that was rotated."""
        tenant = seen_tenant(caller, tenant)
        entries = await ledger.of_keys(since=start(since), until=in_utc(until), tenant=tenant)
        return await _answer(services, entries, by, shape, per_key=True)

    return routes


async def _answer(
    services: AdminServices, entries: Sequence[Usage], by: str, shape: str, *, per_key: bool
) -> Response:
    sums = UsageSums(by, await services.registry.prices.list(), services.settings.currency, per_key=per_key)
    async for part in slices(entries):
        sums.add(part)
    if shape == "json":
        return json_listing(sums.rows())
    columns = KEY_COLUMNS if per_key else COLUMNS
    header: Mapping[str, Any] = dict(zip(columns, columns, strict=True))
    return text(chain([header], sums.rows()), csv_lines, "text/csv; charset=utf-8")


def start(since: datetime | None) -> datetime:
    """The first moment of a listing: the month's where none is asked for."""
    return in_utc(since) or period_start(BudgetPeriod.MONTH, utc_now())


def in_utc(moment: datetime | None) -> datetime | None:
    """The time in UTC if it has no zone, as in the ledger."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """A header line, then one line per row."""
    header: Mapping[str, Any] = dict(zip(columns, columns, strict=True))
    return csv_lines(chain([header], rows))


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of usage as CSV, one line each."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerows(row.values() for row in rows)
    return lines.getvalue()
