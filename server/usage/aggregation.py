"""Usage added up per hour, day or month, for the usage export and the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime

from adapters.models import Usage
from adapters.tenant_settings import BudgetPeriod


def period_start(period: BudgetPeriod, now: datetime) -> datetime:
    """The start (UTC) of the calendar day or month of `now`."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today if period is BudgetPeriod.DAY else today.replace(day=1)


#: The columns that are summed, in the order of the export.
SUMS = tuple(f.name for f in fields(Usage) if f.name not in ("tenant", "adapter", "version", "hour"))
COLUMNS = ("from", "tenant", "adapter", "version", *SUMS)


def summed(entries: Iterable[Usage], by: str) -> list[dict[str, object]]:
    """Usage per hour, day or month, tenant, adapter and version, as plain rows, oldest first.

    Args:
        entries: rows of the usage table.
        by: hour, day or month; `from` in a row is the start of its hour, day or month (UTC).
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
