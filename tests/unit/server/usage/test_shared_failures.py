"""Failed requests of all servers are one list; a flood of them costs bounded writes."""

from __future__ import annotations

import pytest

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.failures import Failure
from server.request.access_log import AccessRecord
from server.usage import shared_failures as module
from server.usage.recent_requests import RecentFailures
from server.usage.shared_failures import MAX_WRITTEN, MAX_WRITTEN_PER_TENANT, SharedFailures


class Store:
    """The table, as one server sees it."""

    def __init__(self) -> None:
        self.rows: list[Failure] = []
        self.theirs: list[Failure] = []
        self.trimmed = 0
        self.is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise RegistryUnavailable

    async def add(self, failures: list[Failure]) -> None:
        self._check()
        self.rows += failures

    async def of_others(self, tenant: str | None, limit: int) -> tuple[Failure, ...]:
        self._check()
        return tuple(row for row in self.theirs if tenant in (None, row.tenant))[:limit]

    async def trim(self, most: int) -> None:
        self.trimmed += 1


def record(request_id: str, tenant: str | None = "acme", status: int = 400) -> AccessRecord:
    made = AccessRecord(request_id, "POST", "/v1/completions")
    made.tenant, made.status, made.code = tenant, status, "bad" if status >= 400 else None
    return made


async def test_one_list_of_all_servers_the_newest_first() -> None:
    store = Store()
    failures, others = SharedFailures(RecentFailures(), store), RecentFailures()
    failures.note(record("1"))
    theirs = others.note(record("2"))
    assert theirs is not None
    store.theirs.append(theirs)
    failures.note(record("3"))
    failures.note(record("fine", status=200))
    assert [each.request_id for each in await failures.list("acme")] == ["3", "2", "1"]
    assert await failures.list("globex") == []
    store.is_away = True
    assert [each.request_id for each in await failures.list()] == ["3", "1"]
    with pytest.raises(RegistryUnavailable):
        await failures.flush()
    store.is_away = False
    await failures.flush()
    await failures.flush()
    assert [each.request_id for each in store.rows] == ["1", "3"]


async def test_a_flood_costs_bounded_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIM_EVERY", 2)
    store = Store()
    failures = SharedFailures(RecentFailures(), store)
    for number in range(1000):
        failures.note(record(str(number)))
    await failures.flush()
    assert len(store.rows) == MAX_WRITTEN_PER_TENANT and not store.trimmed
    for number in range(1000):
        failures.note(record(str(number), f"tenant{number}"))
    await failures.flush()
    assert len(store.rows) == MAX_WRITTEN_PER_TENANT + MAX_WRITTEN and store.trimmed == 1


async def test_one_server_alone_writes_nothing() -> None:
    failures = SharedFailures(RecentFailures(), None)
    failures.note(record("1"))
    await failures.flush()
    assert [each.request_id for each in await failures.list()] == ["1"]
