"""Usage added up per hour, day or month, for the usage export and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


class UsageSums:
    """Adds up usage per hour, day or month, tenant, adapter and version."""

    def __init__(self, by: str) -> None:
        """
        Args:
            by: hour, day or month; `from` in a row is the start of its hour, day or month (UTC).
        """
        self._by = by
        self._periods: dict[datetime, dict[tuple[str, str, int], dict[str, object]]] = {}

    def add(self, entries: Iterable[Usage]) -> None:
        """Add rows of the usage table."""
        for entry in entries:
            begins = entry.hour if self._by == "hour" else period_start(BudgetPeriod(self._by), entry.hour)
            period = self._periods.setdefault(begins, {})
            row = period.get(key := (entry.tenant, entry.adapter, entry.version))
            if row is None:
                named = ("from", "tenant", "adapter", "version")
                row = period[key] = dict(zip(named, (begins.isoformat(), *key), strict=True))
                row.update(dict.fromkeys(SUMS, 0))
            row.update({name: row[name] + getattr(entry, name) for name in SUMS})

    def rows(self) -> Iterator[dict[str, object]]:
        """The sums as plain rows, oldest first."""
        for _, period in sorted(self._periods.items()):
            for _, row in sorted(period.items()):
                yield _rounded(row)


def summed(entries: Iterable[Usage], by: str) -> list[dict[str, object]]:
    """All rows of `UsageSums` for these rows of the usage table."""
    sums = UsageSums(by)
    sums.add(entries)
    return list(sums.rows())


def _rounded(row: dict[str, object]) -> dict[str, object]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
