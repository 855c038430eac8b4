"""What is remembered of requests is bounded, and each tenant's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.models import Version, VersionState
from server.request.access_log import AccessRecord
from server.usage import recent_requests as recent
from server.usage.recent_requests import RecentAnswers, RecentFailures

VERSION = Version("acme", "support", 2, 7, VersionState.READY, "", datetime.now(UTC))


def test_an_answer_is_found_by_either_id_and_by_its_own_tenant_only() -> None:
    answers = RecentAnswers()
    answers.note("acme", "r1", VERSION)
    assert answers.find("acme", "r1") == ("r1", VERSION)
    assert answers.find("acme", "chatcmpl-r1") == ("r1", VERSION)
    assert answers.find("globex", "r1") is None
    assert answers.find("acme", "r2") is None


def test_no_tenant_pushes_out_what_another_may_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ANSWERS_PER_TENANT", 50)
    monkeypatch.setattr(recent, "MAX_ANSWERS", 60)
    answers = RecentAnswers()
    for number in range(8):
        answers.note("globex", f"g{number}", None)
    for number in range(500):
        answers.note("acme", f"a{number}", None)
    for number in range(500):
        answers.note("initech", f"i{number}", None)
    assert all(answers.find("globex", f"g{number}") for number in range(8))
    assert answers.find("acme", "a0") is None and answers.find("initech", "i499")
    assert sum(len(kept) for kept in answers._answers.values()) == answers._total <= 60


def record(request_id: str, **more: Any) -> AccessRecord:
    return AccessRecord(request_id, "POST", "/v1/chat/completions", **({"tenant": "acme"} | more))


def test_failures_are_kept_without_texts_newest_first() -> None:
    failures = RecentFailures()
    failures.note(record("fine", status=200))
    failures.note(record("left", status=499))
    failures.note(record("limited", status=429, code="rate_limit_exceeded", model="acme-support"))
    failures.note(record("broke", status=200, code="engine_unavailable"))
    failures.note(record("other", tenant="globex", status=404, code="model_not_found"))
    assert [failure.request_id for failure in failures.list("acme")] == ["broke", "limited"]
    assert [failure.request_id for failure in failures.list()] == ["other", "broke", "limited"]
    assert [failure.cause for failure in failures.list()] == ["caller", "server", "caller"]
    assert failures.list("initech") == []
    for number in range(300):
        failures.note(record(f"n{number}", status=500, code="internal_error"))
    assert len(failures.list("acme")) == recent.MAX_FAILURES_PER_TENANT
    assert len(failures.list("globex")) == 1
