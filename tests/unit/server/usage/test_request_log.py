"""Requests are found by their id, by their own tenant, while a bounded memory lasts; no text of theirs is kept."""

from __future__ import annotations

import pytest

from server.request.access_log import AccessRecord
from server.usage import request_log
from server.usage.request_log import RequestLog


def record(request_id: str, tenant: str | None = "acme") -> AccessRecord:
    return AccessRecord(request_id, "POST", "/v1/chat/completions", tenant=tenant, status=200)


def test_a_request_is_found_by_its_id_and_its_answers_id() -> None:
    log = RequestLog()
    log.note(record("r1"))
    for wanted in ("r1", "chatcmpl-r1"):
        found = log.find(wanted, "acme")
        assert found is not None and found.fields["request_id"] == "r1"
    assert log.find("r1", None) is not None
    assert log.find("r1", "globex") is None and log.find("r2", "acme") is None


def test_what_becomes_known_later_is_shown_and_a_prompt_is_not() -> None:
    log = RequestLog()
    noted = record("r1")
    log.note(noted)
    noted.total_ms = 12.5
    found = log.find("r1", "acme")
    assert found is not None and found.fields["total_ms"] == 12.5
    noted = record("r2")
    noted.prompt = {"messages": "secret"}
    log.note(noted)
    assert "secret" not in repr(log.find("r2", "acme"))
    assert "prompt" not in (found.fields)


def test_requests_without_a_valid_key_are_not_kept() -> None:
    log = RequestLog()
    log.note(record("r1", tenant=None))
    assert log.find("r1", None) is None


def test_one_tenant_cannot_remove_the_requests_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MAX_PER_TENANT", 5)
    monkeypatch.setattr(request_log, "MAX_REQUESTS", 7)
    log = RequestLog()
    log.note(record("mine"))
    for number in range(20):
        log.note(record(f"g{number}", "globex"))
    for number in range(20):
        log.note(record(f"h{number}", f"tenant{number % 4}"))
    assert sum(len(group) for group in log._requests.values()) == 7 == log._total
    log.note(record("mine"))
    assert log.find("mine", "acme") is not None
    assert log.find("g0", None) is None
