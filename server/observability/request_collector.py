"""Counters of finished requests per (tenant, adapter, version), and of refused ones per tenant."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from prometheus_client.metrics_core import Metric

from adapters.models import Rating, Version
from server.observability.metrics import family, histogram_family
from server.observability.top_labels import TopLabels
from server.request.context import RequestContext
from server.request.latency_histogram import GAP_BOUNDS_S, LATENCY_BOUNDS_S, LatencyHistogram
from server.request.metering import REPETITION

OTHER = "other"
#: The most reasons of rejections with a series of their own; further ones are counted as `other`.
MAX_REASONS = 64

_Model = tuple[str, str, str]
_OTHERS: _Model = (OTHER, OTHER, OTHER)
#: Series → field of `_LabelCounters`.
_HISTOGRAMS = {
    "time_to_first_token_seconds": "ttft_s",
    "inter_token_seconds": "gap_s",
    "request_duration_seconds": "duration_s",
    "queue_seconds": "queue_s",
}
_latency = partial(LatencyHistogram, LATENCY_BOUNDS_S)


@dataclass(slots=True)
class _LabelCounters:
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    ratings: Counter[str] = field(default_factory=Counter)
    steered: int = 0
    ttft_s: LatencyHistogram = field(default_factory=_latency)
    duration_s: LatencyHistogram = field(default_factory=_latency)
    queue_s: LatencyHistogram = field(default_factory=_latency)
    gap_s: LatencyHistogram = field(default_factory=partial(LatencyHistogram, GAP_BOUNDS_S))

    def copy(self) -> _LabelCounters:
        """A copy that later requests do not change."""
        made = _LabelCounters(steered=self.steered)
        for name in ("requests", "finishes", "tokens", "ratings", "ttft_s", "duration_s", "queue_s", "gap_s"):
            setattr(made, name, getattr(self, name).copy())
        return made


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters at one moment."""

    counters: list[tuple[_Model, _LabelCounters]]
    refusals: list[tuple[str, Counter[str]]]

    def collect(self) -> Iterator[Metric]:
        """All series."""
        counters = self.counters
        yield family(
            "requests", (((*key, *how), n) for key, counts in counters for how, n in counts.requests.items())
        )
        yield from (self._counted("finishes", "finishes"), self._counted("tokens", "tokens"))
        yield family("repetition_stops", ((key, counts.finishes[REPETITION]) for key, counts in counters))
        yield family("repetition_adjustments", ((key, counts.steered) for key, counts in counters))
        yield self._counted("feedback", "ratings")
        for name, field_name in _HISTOGRAMS.items():
            yield histogram_family(name, ((key, getattr(counts, field_name)) for key, counts in counters))
        yield family(
            "rejections",
            (((tenant, why), n) for tenant, whys in self.refusals for why, n in whys.items()),
        )

    def _counted(self, name: str, field_name: str) -> Metric:
        """A series with one more label: the key of the counter."""
        samples = (
            ((*key, label), n)
            for key, counts in self.counters
            for label, n in getattr(counts, field_name).items()
        )
        return family(name, samples)


class RequestCollector:
    """Counts of finished and refused requests; at most `label_sets` + 1 label sets of each."""

    def __init__(self, label_sets: int) -> None:
        self._counters: defaultdict[_Model, _LabelCounters] = defaultdict(_LabelCounters)
        self._models: TopLabels[_Model] = TopLabels(label_sets, lambda key: self._counters.pop(key, None))
        self._refusals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._tenants: TopLabels[str] = TopLabels(label_sets, lambda tenant: self._refusals.pop(tenant, None))
        self._reasons: set[str] = set()

    def observe(self, context: RequestContext, status: int) -> None:
        """Count one finished request."""
        usage = context.usage
        counts = self._counters_of(context.caller.tenant_name, context.target.version)
        counts.requests[context.endpoint.value, str(status)] += 1
        counts.finishes.update(usage.finish_reasons)
        counts.tokens["prompt"] += usage.prompt_tokens
        counts.tokens["cached"] += usage.cached_tokens
        counts.tokens["generated"] += usage.generated_tokens
        counts.steered += usage.answers_steered
        counts.duration_s.add(time.monotonic() - context.started_at)
        counts.gap_s.merge(usage.gap_s)
        if usage.first_token_at is not None:
            counts.ttft_s.add(usage.first_token_at - context.started_at)
        if usage.queue_s is not None:
            counts.queue_s.add(usage.queue_s)

    def observe_tokenizing(self, tenant: str, route: str, status: int) -> None:
        """Count one finished request of a route beside the model: "tokenize" or "detokenize"."""
        self._counters_of(tenant, None).requests[route, str(status)] += 1

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count one rating of an answer."""
        self._counters_of(tenant, version).ratings[rating.value] += 1

    def refuse(self, tenant: str, reason: str) -> None:
        """Count one refusal by its limit's name or its error's code.

        Tenant "" is an operator, or a caller without a valid key.
        """
        if reason not in self._reasons and len(self._reasons) >= MAX_REASONS:
            reason = OTHER
        self._reasons.add(reason)
        key = tenant if self._tenants.count(tenant) else OTHER
        self._refusals[key][reason] += 1

    def snapshot(self) -> Snapshot:
        """A copy of the counters; safe to read in another thread."""
        return Snapshot(
            [(key, counts.copy()) for key, counts in self._counters.items()],
            [(tenant, reasons.copy()) for tenant, reasons in self._refusals.items()],
        )

    def _counters_of(self, tenant: str, version: Version | None) -> _LabelCounters:
        model = (tenant, version.adapter, str(version.number)) if version else (tenant, "", "")
        key = model if self._models.count(model) else _OTHERS
        return self._counters[key]
