"""What happens after a generating request: it is counted, and remembered for feedback and for the console."""

from __future__ import annotations

from dataclasses import dataclass

from server.background.canary_rollback import CanaryRollback
from server.observability.recorder import MetricsRecorder
from server.request.access_log import AccessRecord
from server.request.context import RequestContext
from server.usage.recent_requests import RecentAnswers, RecentFailures


@dataclass(frozen=True, slots=True)
class RequestObserver:
    """Tells metrics, canary rollback and the recent requests of every request that has ended."""

    metrics: MetricsRecorder
    canaries: CanaryRollback
    answers: RecentAnswers
    failures: RecentFailures

    def refused(self, tenant: str, reason: str) -> None:
        """Count a refusal by its limit's name or its error's code; tenant "" is an operator or unknown."""
        self.metrics.requests.refuse(tenant, reason)

    def finished(self, record: AccessRecord, context: RequestContext | None) -> None:
        """Count a request that has ended; `context` is None when it was not routed."""
        self.failures.note(record)
        if context is None:
            return
        status = record.status or 200
        self.metrics.requests.observe(context, status)
        self.canaries.note(context, status)
        if context.usage.generated_tokens:
            self.answers.note(context.caller.tenant_name, context.request_id, context.target.version)
