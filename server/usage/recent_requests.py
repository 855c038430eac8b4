"""What is remembered of recent requests: whose answer has which id, and which requests failed.

In memory, bounded per tenant, so that no tenant can push out what another may still ask for. No prompt, no answer
and no error text is in it: texts can repeat what was sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.models import Version
from adapters.registry.database import utc_now

MAX_ANSWERS_PER_TENANT = 10_000
MAX_ANSWERS = 100_000
MAX_FAILURES_PER_TENANT = 100
MAX_TENANTS = 1_000
#: What vLLM puts before our request id in an answer's own `id`.
_ANSWER_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")
#: The caller went away; nothing failed.
_CLIENT_CLOSED_REQUEST = 499


class RecentAnswers:
    """Which version answered which request: caller's tenant → request id → version (None: the base model)."""

    def __init__(self) -> None:
        self._answers: dict[str, OrderedDict[str, Version | None]] = {}
        self._total = 0

    def note(self, tenant: str, request_id: str, version: Version | None) -> None:
        """Remember one answered request."""
        answers = self._answers.setdefault(tenant, OrderedDict())
        self._total += request_id not in answers
        answers[request_id] = version
        answers.move_to_end(request_id)
        if len(answers) > MAX_ANSWERS_PER_TENANT:
            answers.popitem(last=False)
            self._total -= 1
        elif self._total > MAX_ANSWERS:
            max(self._answers.values(), key=len).popitem(last=False)
            self._total -= 1

    def find(self, tenant: str, asked: str) -> tuple[str, Version | None] | None:
        """(request id, version) of one of the tenant's own requests, by its id or by its answer's `id`."""
        answers: Mapping[str, Version | None] = self._answers.get(tenant, {})
        for request_id in _request_ids(asked):
            if request_id in answers:
                return request_id, answers[request_id]
        return None


def _request_ids(asked: str) -> Iterator[str]:
    yield asked
    for prefix in _ANSWER_PREFIXES:
        if asked.startswith(prefix):
            yield asked.removeprefix(prefix)


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that failed; its log line, under the same id, has the rest."""

    at: datetime
    request_id: str
    tenant: str
    key_prefix: str
    path: str
    model: str
    status: int
    code: str


class RecentFailures:
    """The last failures of each tenant; those without a valid key belong to nobody (tenant "")."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[Failure]] = OrderedDict()

    def note(self, record: Mapping[str, Any]) -> None:
        """Remember an access record (`server.api.middleware`) if it tells of a failure."""
        status = int(record.get("status", 200))
        if status == _CLIENT_CLOSED_REQUEST or ("code" not in record and status < 400):
            return
        failure = Failure(
            at=utc_now(),
            request_id=str(record["request_id"]),
            tenant=str(record.get("tenant", "")),
            key_prefix=str(record.get("key_prefix", "")),
            path=str(record["path"]),
            model=str(record.get("model", "")),
            status=status,
            code=str(record.get("code", "")),
        )
        failures = self._failures.setdefault(failure.tenant, deque(maxlen=MAX_FAILURES_PER_TENANT))
        self._failures.move_to_end(failure.tenant)
        failures.append(failure)
        if len(self._failures) > MAX_TENANTS:
            self._failures.popitem(last=False)

    def list(self, tenant: str | None = None) -> list[Failure]:
        """Newest first; of one tenant, or of all."""
        groups = self._failures.values() if tenant is None else [self._failures.get(tenant, ())]
        return sorted((failure for group in groups for failure in group), key=lambda f: f.at, reverse=True)
