"""The last requests by their id, in memory: what each asked for, where its time went, and how it ended.

Bounded per tenant, so that one tenant's requests cannot remove another's. No prompt and no answer is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from adapters.registry.database import utc_now
from server.request.access_log import AccessRecord
from server.request.context import RequestContext
from server.usage.recent_requests import answer_ids

MAX_PER_TENANT = 1_000
MAX_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that has ended."""

    record: AccessRecord
    options: dict[str, Any]
    """The decoding options that the request itself set; of a batch, those of its first chat."""
    at: datetime = field(default_factory=utc_now)

    @property
    def fields(self) -> dict[str, Any]:
        """What the log line of the request says; None: not known."""
        return {name: getattr(self.record, name) for name in AccessRecord.__slots__ if name != "prompt"}


class RequestLog:
    """The requests of each tenant; those of operators have tenant "", those without a valid key are not kept."""

    def __init__(self) -> None:
        self._requests: dict[str, OrderedDict[str, LoggedRequest]] = {}
        self._total = 0

    def note(self, record: AccessRecord, *contexts: RequestContext) -> None:
        """Keep a request that has ended."""
        if record.tenant is None:
            return
        kept = record if record.prompt is None else replace(record, prompt=None)
        requests = self._requests.setdefault(record.tenant, OrderedDict())
        self._total += record.request_id not in requests
        requests[record.request_id] = LoggedRequest(kept, _options(contexts[0]) if contexts else {})
        requests.move_to_end(record.request_id)
        if len(requests) > MAX_PER_TENANT:
            requests.popitem(last=False)
            self._total -= 1
        elif self._total > MAX_REQUESTS:
            largest = max(self._requests, key=lambda tenant: len(self._requests[tenant]))
            self._requests[largest].popitem(last=False)
            self._total -= 1

    def find(self, wanted: str, tenant: str | None) -> LoggedRequest | None:
        """A request by its id or by its answer's `id`, of one tenant or of any (None)."""
        groups = (
            list(self._requests.values()) if tenant is None else [self._requests.get(tenant, OrderedDict())]
        )
        ids = answer_ids(wanted)
        found = [group[request_id] for group in groups for request_id in ids if request_id in group]
        return max(found, key=lambda request: request.at, default=None)


def _options(context: RequestContext) -> dict[str, Any]:
    """Numbers and booleans only: no text of the caller's, and nothing large."""
    sampling = context.sampling
    asked = {
        name: sampling.body.get(name) for name, origin in sampling.origins.items() if origin == "request"
    }
    return {name: value for name, value in asked.items() if isinstance(value, bool | int | float)}
