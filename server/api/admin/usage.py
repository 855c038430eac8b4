"""/admin/v1/usage: operators see all, a tenant's admin its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from adapters.registry.database import utc_now
from adapters.tenant_settings import BudgetPeriod
from server.api.admin.models import Listing, UsageRow
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.api.admin.sliced_listing import json_listing, slices, text
from server.request.context import Caller
from server.usage.aggregation import COLUMNS, UsageSums, period_start

HEADER: Mapping[str, Any] = dict(zip(COLUMNS, COLUMNS, strict=True))


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route."""
    routes = admin_router()

    @routes.get("/usage", response_model=Listing[UsageRow], responses={200: {"content": {"text/csv": {}}}})
    async def usage(
        tenant: str | None = None,
        since: Annotated[datetime | None, Query(alias="from")] = None,
        until: Annotated[datetime | None, Query(alias="to")] = None,
        by: Literal["hour", "day", "month"] = "day",
        shape: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
        caller: Caller = Depends(guard.manager),
    ) -> Response:
        """Usage per tenant, adapter and version; without `from`, since the beginning of the month."""
        tenant = seen_tenant(caller, tenant)
        begin = in_utc(since) if since else period_start(BudgetPeriod.MONTH, utc_now())
        entries = await services.registry.usage.list(
            since=begin, until=in_utc(until) if until else None, tenant=tenant
        )
        sums = UsageSums(by)
        async for part in slices(entries):
            sums.add(part)
        if shape == "csv":
            return text(chain([HEADER], sums.rows()), csv_lines, "text/csv; charset=utf-8")
        return json_listing(sums.rows())

    return routes


def in_utc(moment: datetime) -> datetime:
    """The time in UTC if it has no zone, as in the ledger."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """A header line, then one line per row."""
    return csv_lines(chain([HEADER], rows))


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per row."""
    lines = io.StringIO()
    csv.DictWriter(lines, COLUMNS, lineterminator="\n").writerows(rows)
    return lines.getvalue()
