"""Usage per hour, day and month."""

from __future__ import annotations

from datetime import UTC, datetime

from adapters.models import Usage
from adapters.tenant_settings import BudgetPeriod
from server.usage.aggregation import COLUMNS, period_start, summed

NOON = datetime(2026, 3, 17, 12, 30, tzinfo=UTC)


def test_summed_per_step() -> None:
    hours = [NOON.replace(minute=0), NOON.replace(minute=0, hour=13), NOON.replace(month=4, minute=0)]
    entries = [Usage("acme", "support", 1, hour, requests=1, generated_tokens=5, run_s=0.1) for hour in hours]
    entries.append(Usage("acme", "", 0, hours[0], requests=2))
    assert [len(summed(entries, by)) for by in ("hour", "day", "month")] == [4, 3, 3]
    march = [row for row in summed(entries, "month") if row["from"] == "2026-03-01T00:00:00+00:00"]
    assert [(row["adapter"], row["requests"], row["run_s"]) for row in march] == [
        ("", 2, 0),
        ("support", 2, 0.2),
    ]
    assert tuple(march[0]) == COLUMNS
    assert period_start(BudgetPeriod.DAY, NOON) == datetime(2026, 3, 17, tzinfo=UTC)
