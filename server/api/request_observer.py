"""What happens after a generating request: it is counted, and remembered for feedback and for the console."""

from __future__ import annotations

from dataclasses import dataclass

from server.background.canary_rollback import CanaryRollback
from server.observability.history import Finished, History
from server.observability.recorder import MetricsRecorder
from server.request.access_log import AccessRecord
from server.request.context import RequestContext
from server.usage.request_log import RequestLog
from server.usage.shared_answers import SharedAnswers
from server.usage.shared_failures import SharedFailures


@dataclass(frozen=True, slots=True)
class RequestObserver:
    """Tells metrics, canary rollback, history and the recent requests of every request that has ended."""

    metrics: MetricsRecorder
    canaries: CanaryRollback
    answers: SharedAnswers
    failures: SharedFailures
    history: History
    log: RequestLog

    def refused(self, tenant: str, reason: str) -> None:
        """Count a refusal by its limit's name or its error's code; tenant "" is an operator or unknown."""
        self.metrics.requests.refuse(tenant, reason)

    def tokenized(self, record: AccessRecord, route: str) -> None:
        """Count a request of /tokenize or /detokenize that has ended; its tokens are not the model's."""
        self.failures.note(record)
        if record.tenant is not None:
            self.metrics.requests.observe_tokenizing(record.tenant, route, record.status or 200)

    def answering(self, *contexts: RequestContext) -> None:
        """Remember an answer before it is sent: its client can rate it as soon as it has the last byte."""
        for context in contexts:
            self.answers.note(context.caller.tenant_name, context.request_id, context.target.version)

    def finished(self, record: AccessRecord, *contexts: RequestContext) -> None:
        """Count a request that has ended, or each chat of a batch; there is no context when it was not routed."""
        failed = self.failures.note(record)
        self.log.note(record, *contexts)
        status = record.status or 200
        if not contexts and record.tenant is not None:
            self.history.note(Finished(record.tenant, "", failed))
        for context in contexts:
            self.history.note(_finished(context, failed))
            self.metrics.requests.observe(context, status)
            self.canaries.note(context, status)


def _finished(context: RequestContext, failed: bool) -> Finished:
    usage, version = context.usage, context.target.version
    first_s = usage.first_token_at
    return Finished(
        context.caller.tenant_name,
        version.adapter if version else "",
        failed,
        usage.prompt_tokens,
        usage.generated_tokens,
        None if first_s is None else first_s - context.started_at,
    )
