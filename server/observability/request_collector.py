"""What is counted when a request ends, per (tenant, adapter, version)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from prometheus_client.metrics_core import Metric

from adapters.models import Version
from server.observability.metrics import distributions, family
from server.observability.top_labels import TopLabels
from server.request.context import RequestContext
from server.request.histogram import GAP_BOUNDS_S, LATENCY_BOUNDS_S, TokenGapHistogram
from server.request.metering import REPETITION

OTHER = "other"
#: Rejections are kept apart by reason; should there ever be more kinds of them, the rest is `other`.
MAX_REASONS = 64

_Model = tuple[str, str, str]
_OTHERS: _Model = (OTHER, OTHER, OTHER)
_latency = partial(TokenGapHistogram, LATENCY_BOUNDS_S)


@dataclass(slots=True)
class _Tally:
    """One label set's counts."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    ratings: Counter[str] = field(default_factory=Counter)
    steered: int = 0
    ttft_s: TokenGapHistogram = field(default_factory=_latency)
    duration_s: TokenGapHistogram = field(default_factory=_latency)
    queue_s: TokenGapHistogram = field(default_factory=_latency)
    gap_s: TokenGapHistogram = field(default_factory=partial(TokenGapHistogram, GAP_BOUNDS_S))

    def copy(self) -> _Tally:
        """As it is now."""
        made = _Tally(steered=self.steered)
        for name in ("requests", "finishes", "tokens", "ratings", "ttft_s", "duration_s", "queue_s", "gap_s"):
            setattr(made, name, getattr(self, name).copy())
        return made


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counts at one moment."""

    tallies: list[tuple[_Model, _Tally]]
    refusals: list[tuple[str, Counter[str]]]

    def collect(self) -> Iterator[Metric]:
        """All series."""
        tallies = self.tallies
        yield family(
            "requests", (((*key, *how), n) for key, tally in tallies for how, n in tally.requests.items())
        )
        yield family(
            "finishes", (((*key, how), n) for key, tally in tallies for how, n in tally.finishes.items())
        )
        yield family(
            "tokens", (((*key, kind), n) for key, tally in tallies for kind, n in tally.tokens.items())
        )
        yield family("repetition_stops", ((key, tally.finishes[REPETITION]) for key, tally in tallies))
        yield family("repetition_adjustments", ((key, tally.steered) for key, tally in tallies))
        yield family(
            "feedback", (((*key, how), n) for key, tally in tallies for how, n in tally.ratings.items())
        )
        yield distributions("time_to_first_token_seconds", ((key, tally.ttft_s) for key, tally in tallies))
        yield distributions("inter_token_seconds", ((key, tally.gap_s) for key, tally in tallies))
        yield distributions("request_duration_seconds", ((key, tally.duration_s) for key, tally in tallies))
        yield distributions("queue_seconds", ((key, tally.queue_s) for key, tally in tallies))
        yield family(
            "rejections",
            (((tenant, why), n) for tenant, whys in self.refusals for why, n in whys.items()),
        )


class RequestCollector:
    """Counts of finished and refused requests; at most `label_sets` + 1 label sets of each."""

    def __init__(self, label_sets: int) -> None:
        self._tallies: dict[_Model, _Tally] = {}
        self._models: TopLabels[_Model] = TopLabels(label_sets, self._drop_model)
        self._refusals: dict[str, Counter[str]] = {}
        self._tenants: TopLabels[str] = TopLabels(label_sets, self._drop_tenant)
        self._reasons: set[str] = set()

    def observe(self, endpoint: str, context: RequestContext, status: int) -> None:
        """Count one finished request."""
        usage = context.usage
        tally = self._tally(context.caller.tenant_name, context.target.version)
        tally.requests[endpoint, str(status)] += 1
        tally.finishes.update(usage.finish_reasons)
        tally.tokens["prompt"] += usage.prompt_tokens
        tally.tokens["cached"] += usage.cached_tokens
        tally.tokens["generated"] += usage.generated_tokens
        tally.steered += usage.answers_steered
        tally.duration_s.add(time.monotonic() - context.started_at)
        tally.gap_s.merge(usage.gap_s)
        if usage.first_token_at is not None:
            tally.ttft_s.add(usage.first_token_at - context.started_at)
        if usage.queue_s is not None:
            tally.queue_s.add(usage.queue_s)

    def rated(self, tenant: str, version: Version | None, rating: str) -> None:
        """Count one rating."""
        self._tally(tenant, version).ratings[rating] += 1

    def refuse(self, tenant: str, reason: str) -> None:
        """Count one refusal; tenant "" is an operator, or nobody that we know."""
        if reason not in self._reasons and len(self._reasons) >= MAX_REASONS:
            reason = OTHER
        self._reasons.add(reason)
        key = tenant if self._tenants.count(tenant) else OTHER
        self._refusals.setdefault(key, Counter())[reason] += 1

    def snapshot(self) -> Snapshot:
        """What was counted so far; safe to read in another thread."""
        return Snapshot(
            [(key, tally.copy()) for key, tally in self._tallies.items()],
            [(tenant, reasons.copy()) for tenant, reasons in self._refusals.items()],
        )

    def _tally(self, tenant: str, version: Version | None) -> _Tally:
        model = (tenant, version.adapter, str(version.number)) if version else (tenant, "", "")
        key = model if self._models.count(model) else _OTHERS
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        return tally

    def _drop_model(self, key: _Model) -> None:
        self._tallies.pop(key, None)

    def _drop_tenant(self, tenant: str) -> None:
        self._refusals.pop(tenant, None)
