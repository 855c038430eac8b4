"""Feedback reaches the answer of another server, and does without the database where it can."""

from __future__ import annotations

import pytest

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.answers import AnswerRecord
from server.usage import shared_answers as module
from server.usage.recent_requests import RecentAnswers
from server.usage.shared_answers import SharedAnswers


class Store:
    def __init__(self) -> None:
        self.records: list[AnswerRecord] = []
        self.away = False

    async def add(self, records: list[AnswerRecord]) -> None:
        if self.away:
            raise RegistryUnavailable
        self.records += records

    async def find(self, caller: str, request_ids: tuple[str, ...]) -> AnswerRecord | None:
        if self.away:
            raise RegistryUnavailable
        found = [r for r in self.records if r.caller == caller and r.request_id in request_ids]
        return found[-1] if found else None


async def test_another_server_finds_it_when_it_is_written() -> None:
    store = Store()
    first, second = (SharedAnswers(RecentAnswers(), store) for _ in range(2))
    first.note("acme", "r1", None)
    assert await second.find("acme", "chatcmpl-r1") is None
    await first.flush()
    await first.flush()
    assert await second.find("acme", "chatcmpl-r1") == ("r1", None) and len(store.records) == 1
    assert await second.find("globex", "r1") is None


async def test_its_own_answers_need_no_database() -> None:
    store = Store()
    answers = SharedAnswers(RecentAnswers(), store)
    answers.note("acme", "r1", None)
    store.away = True
    with pytest.raises(RegistryUnavailable):
        await answers.flush()
    assert await answers.find("acme", "r1") == ("r1", None)
    with pytest.raises(RegistryUnavailable):
        await answers.find("acme", "r2")
    store.away = False
    await answers.flush()
    assert [record.request_id for record in store.records] == ["r1"]


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    store = Store()
    answers = SharedAnswers(RecentAnswers(), store)
    for number in range(5):
        answers.note("acme", f"r{number}", None)
    await answers.flush()
    assert [record.request_id for record in store.records] == ["r2", "r3", "r4"]


async def test_one_server_alone_writes_nothing() -> None:
    answers = SharedAnswers(RecentAnswers(), None)
    answers.note("acme", "r1", None)
    await answers.flush()
    assert await answers.find("acme", "r1") == ("r1", None) and await answers.find("acme", "r2") is None
