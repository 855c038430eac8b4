"""What happens after a generating request: it is counted, and remembered for feedback and for the console."""

from __future__ import annotations

from dataclasses import dataclass

from server.background.canary_rollback import CanaryRollback
from server.observability.recorder import MetricsRecorder
from server.request.access_log import AccessRecord
from server.request.context import RequestContext
from server.usage.shared_answers import SharedAnswers
from server.usage.shared_failures import SharedFailures


@dataclass(frozen=True, slots=True)
class RequestObserver:
    """Tells metrics, canary rollback and the recent requests of every request that has ended."""

    metrics: MetricsRecorder
    canaries: CanaryRollback
    answers: SharedAnswers
    failures: SharedFailures

    def refused(self, tenant: str, reason: str) -> None:
        """Count a refusal by its limit's name or its error's code; tenant "" is an operator or unknown."""
        self.metrics.requests.refuse(tenant, reason)

    def tokenized(self, record: AccessRecord, route: str) -> None:
        """Count a request of /tokenize or /detokenize that has ended; its tokens are not the model's."""
        self.failures.note(record)
        if record.tenant is not None:
            self.metrics.requests.observe_tokenizing(record.tenant, route, record.status or 200)

    def finished(self, record: AccessRecord, *contexts: RequestContext) -> None:
        """Count a request that has ended, or each chat of a batch; there is no context when it was not routed."""
        self.failures.note(record)
        status = record.status or 200
        for context in contexts:
            self.metrics.requests.observe(context, status)
            self.canaries.note(context, status)
            if context.usage.generated_tokens:
                self.answers.note(context.caller.tenant_name, context.request_id, context.target.version)
