"""Recent requests, in memory: which version answered which request id, and which requests failed.

The memory is bounded per tenant, so that one tenant's requests cannot remove another's. It holds no prompt, no answer
and no error text, because texts can repeat what was sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping

from adapters.models import Version
from adapters.registry.database import utc_now
from adapters.registry.replicas.failures import Cause, Failure
from server.request.access_log import AccessRecord

MAX_ANSWERS_PER_TENANT = 10_000
MAX_ANSWERS = 100_000
MAX_FAILURES_PER_TENANT = 100
MAX_TENANTS = 1_000
#: vLLM's prefixes of our request id in an answer's own `id`.
_ANSWER_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")
#: The client disconnected; nothing failed.
_CLIENT_CLOSED_REQUEST = 499


class RecentAnswers:
    """The version that answered a request: caller's tenant → request id → version (None: the base model)."""

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

    def find(self, tenant: str, wanted: str) -> tuple[str, Version | None] | None:
        """(request id, version) of one of the tenant's own requests, by its id or by its answer's `id`."""
        answers: Mapping[str, Version | None] = self._answers.get(tenant, {})
        known = (request_id for request_id in answer_ids(wanted) if request_id in answers)
        return next(((request_id, answers[request_id]) for request_id in known), None)


def answer_ids(wanted: str) -> tuple[str, ...]:
    """The ids of a recent answer that a caller may mean: the id itself, and what the `id` in the answer contains."""
    return (wanted, *(wanted.removeprefix(prefix) for prefix in _ANSWER_PREFIXES))


class RecentFailures:
    """The last failures of each tenant; requests of operators or without a valid key have tenant ""."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[Failure]] = OrderedDict()

    def note(self, record: AccessRecord) -> Failure | None:
        """Remember a request if it failed; returns what is remembered."""
        status = record.status or 200
        if status == _CLIENT_CLOSED_REQUEST or (record.code is None and status < 400):
            return None
        failure = Failure(
            at=utc_now(),
            request_id=record.request_id,
            tenant=record.tenant or "",
            key_prefix=record.key_prefix or "",
            path=record.path,
            model=record.model or "",
            status=status,
            code=record.code or "",
            cause=Cause.CALLER if 400 <= status < 500 else Cause.SERVER,  # 2xx: a stream broke off
        )
        failures = self._failures.setdefault(failure.tenant, deque(maxlen=MAX_FAILURES_PER_TENANT))
        self._failures.move_to_end(failure.tenant)
        failures.append(failure)
        if len(self._failures) > MAX_TENANTS:
            self._failures.popitem(last=False)
        return failure

    def list(self, tenant: str | None = None) -> list[Failure]:
        """Failures of one tenant or of all, the newest first."""
        groups = self._failures.values() if tenant is None else [self._failures.get(tenant, ())]
        return sorted((failure for group in groups for failure in group), key=lambda f: f.at, reverse=True)
