"""What requests did in the last hour and in the last day, per tenant and adapter, in bounded memory.

The memory belongs to this process. `merged` adds up what several servers tell; Prometheus keeps more, over restarts.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from server.observability.scheduler_stats import SchedulerStats
from server.request.latency_histogram import LATENCY_BOUNDS_S, LatencyHistogram, quantile

Span = Literal["hour", "day"]
#: Tenants and adapters with a history of their own; those used least recently are forgotten.
MAX_SERIES = 300
#: Seconds between two looks at the queue and the KV cache.
SAMPLE_INTERVAL_S = 10.0


class _Shape(NamedTuple):
    step_s: int
    steps: int


SPANS: Mapping[Span, _Shape] = {"hour": _Shape(60, 60), "day": _Shape(900, 96)}


@dataclass(slots=True)
class Step:
    """What happened in one step of a span."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    ttft_s: LatencyHistogram | None = None
    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0

    @property
    def is_used(self) -> bool:
        """Whether anything happened."""
        return any(getattr(self, name) for name in _SUMS)

    def told(self) -> dict[str, Any]:
        """For another server: `add` reads it."""
        told = {name: getattr(self, name) for name in _SUMS}
        return told | {"ttft_counts": None if self.ttft_s is None else self.ttft_s.counts}

    def add(self, told: Mapping[str, Any]) -> None:
        """Add what another server tells of the same step. Raises: ValueError, KeyError, TypeError."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + int(told[name]))
        if told["ttft_counts"] is not None:
            theirs = LatencyHistogram(LATENCY_BOUNDS_S)
            theirs.counts = [int(count) for count in told["ttft_counts"]]
            mine = LatencyHistogram(LATENCY_BOUNDS_S) if self.ttft_s is None else self.ttft_s.copy()
            mine.merge(theirs)
            self.ttft_s = mine

    def point(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "ttft_p50_s": quantile(self.ttft_s, 0.5),
            "ttft_p95_s": quantile(self.ttft_s, 0.95),
            "running": self.running,
            "waiting": self.waiting,
            "kv_blocks": self.kv_blocks,
        }


@dataclass(slots=True)
class _Series:
    """The steps of one tenant or adapter, by their number since 1970."""

    steps: dict[Span, dict[int, Step]] = field(default_factory=lambda: {span: {} for span in SPANS})

    def now(self, span: Span, now_s: float) -> Step:
        """The current step; those that are too old are dropped."""
        number = int(now_s // SPANS[span].step_s)
        steps = self.steps[span]
        if number not in steps:
            for old in [n for n in steps if n <= number - SPANS[span].steps]:
                del steps[old]
            steps[number] = Step()
        return steps[number]


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that has ended: of which tenant ("" for operators) and adapter ("" for the base model)."""

    tenant: str
    adapter: str
    failed: bool
    prompt_tokens: int = 0
    generated_tokens: int = 0
    ttft_s: float | None = None


class History:
    """Counts per step of time. Args: clock: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._total = _Series()
        self._series: OrderedDict[tuple[str, str | None], _Series] = OrderedDict()

    def note(self, request: Finished) -> None:
        """Count a request for all, for its tenant and for its adapter."""
        for series in self._of(request.tenant, request.adapter):
            for span in SPANS:
                _count(series.now(span, self._clock()), request)

    def sample(self, tenants: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the largest `running`, `waiting` and `kv_blocks` of each step, per tenant and together."""
        sums = dict.fromkeys(_GAUGES, 0)
        for name, row in tenants.items():
            gauges = {gauge: int(row.get(gauge, 0)) for gauge in _GAUGES}
            if any(gauges.values()):
                self._raise_to(self._one((name, None)), gauges)
            sums = {gauge: sums[gauge] + gauges[gauge] for gauge in _GAUGES}
        self._raise_to(self._total, sums)

    def steps(
        self, span: Span, tenant: str | None = None, adapter: str | None = None
    ) -> tuple[int, list[Step]]:
        """When the first step began (seconds since 1970), and every step, the oldest first; the last one goes on.

        Args:
            span: the last hour or the last day.
            tenant: None for all.
            adapter: of the tenant; "" for the base model, None for all.
        """
        shape = SPANS[span]
        last = int(self._clock() // shape.step_s)
        series = self._total if tenant is None else self._series.get((tenant, adapter), _Series())
        numbers = range(last - shape.steps + 1, last + 1)
        steps = series.steps[span]
        return numbers[0] * shape.step_s, [replace(steps.get(number, _NOTHING)) for number in numbers]

    def adapters(self, tenant: str | None = None) -> list[tuple[str, str]]:
        """(tenant, adapter) with a history, in their order."""
        found = [(t, a) for t, a in self._series if a is not None and tenant in (None, t)]
        return sorted(found)

    async def run(self, stats: SchedulerStats) -> None:
        """Sample the scheduler's report until this task is cancelled."""
        while True:
            report = await stats.latest()
            if report is not None:
                self.sample(report["tenants"])
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def _of(self, tenant: str, adapter: str) -> tuple[_Series, ...]:
        return self._total, self._one((tenant, None)), self._one((tenant, adapter))

    def _one(self, key: tuple[str, str | None]) -> _Series:
        series = self._series.setdefault(key, _Series())
        self._series.move_to_end(key)
        if len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)
        return series

    def _raise_to(self, series: _Series, gauges: Mapping[str, int]) -> None:
        for span in SPANS:
            step = series.now(span, self._clock())
            for gauge, value in gauges.items():
                setattr(step, gauge, max(getattr(step, gauge), value))


_GAUGES = ("running", "waiting", "kv_blocks")
_SUMS = ("requests", "errors", "prompt_tokens", "generated_tokens", *_GAUGES)
_NOTHING = Step()


def merged(span: Span, begins_s: int, steps: Sequence[Step], others: Iterable[Mapping[str, Any]]) -> None:
    """Add to each step what other servers tell of the same time; the most of a gauge becomes the sum of the most.

    Raises: ValueError, KeyError, TypeError: an answer is none.
    """
    for other in others:
        first = (int(other["begins_s"]) - begins_s) // SPANS[span].step_s
        for at, told in enumerate(other["steps"], first):
            if 0 <= at < len(steps) and told is not None:
                steps[at].add(told)


def _count(step: Step, request: Finished) -> None:
    step.requests += 1
    step.errors += request.failed
    step.prompt_tokens += request.prompt_tokens
    step.generated_tokens += request.generated_tokens
    if request.ttft_s is not None:
        step.ttft_s = step.ttft_s or LatencyHistogram(LATENCY_BOUNDS_S)
        step.ttft_s.add(request.ttft_s)
