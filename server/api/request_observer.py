"""What happens after a generating request: it is counted, and remembered for feedback and for the console."""

from __future__ import annotations

from server.background.canary_rollback import CanaryRollback
from server.observability.recorder import MetricsRecorder
from server.request.access_log import AccessRecord
from server.request.context import RequestContext
from server.usage.recent_requests import RecentAnswers, RecentFailures


class RequestObserver:
    """Tells metrics, canary rollback and the recent requests of every request that has ended."""

    def __init__(
        self,
        metrics: MetricsRecorder,
        canaries: CanaryRollback,
        answers: RecentAnswers,
        failures: RecentFailures,
    ) -> None:
        self._metrics = metrics
        self._canaries = canaries
        self._answers = answers
        self._failures = failures

    def refused(self, tenant: str, reason: str) -> None:
        """Count a refusal by its limit's name or its error's code; tenant "" is an operator or unknown."""
        self._metrics.refuse(tenant, reason)

    def finished(self, record: AccessRecord, context: RequestContext | None) -> None:
        """Count a request that has ended; `context` is None when it was not routed."""
        self._failures.note(record)
        if context is None:
            return
        status = record.status or 200
        self._metrics.observe(context, status)
        self._canaries.note(context, status)
        if context.usage.generated_tokens:
            self._answers.note(context.caller.tenant_name, context.request_id, context.target.version)
