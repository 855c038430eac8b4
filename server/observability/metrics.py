"""All our metrics, declared in one table. /metrics shows vLLM's own series too, unchanged.

Units are base units, and counters end in `_total`. `tenant`, `adapter` and `version` are bounded: the busiest
(`--metrics-label-sets`) have series of their own, all others share `other` (`server.observability.top_labels`).
docs/metrics.md is generated from `SERIES`. A histogram that is observed where something happens is a `histogram`; a
value that is read at a scrape is a `family`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from server.request.latency_histogram import LatencyHistogram

PREFIX = "loragate_"
#: Buckets of loads, swaps and queries.
_LAG_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MODEL = ("tenant", "adapter", "version")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its name without prefix (and without `_total`), kind, meaning and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed_name(self) -> str:
        """The name in a query; a histogram's series add `_bucket`, `_sum` and `_count`."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


#: Adapter "" and version "" are the base model, tenant "" is an operator.
SERIES = {
    series.name: series
    for series in (
        # Counted when a request ends
        Series("requests", "counter", "Finished requests.", (*_MODEL, "endpoint", "status")),
        Series("finishes", "counter", "Answers, by finish reason.", (*_MODEL, "reason")),
        Series("tokens", "counter", "Tokens: prompt, cached (part of prompt) and generated.", (*_MODEL, "kind")),
        Series("repetition_stops", "counter", "Answers that were ended because they repeated themselves.", _MODEL),
        Series("repetition_adjustments", "counter", "Answers that were steered out of a repetition loop.", _MODEL),
        Series("feedback", "counter", "Ratings of answers: up or down.", (*_MODEL, "rating")),
        Series("time_to_first_token_seconds", "histogram", "From routing to the first token.", _MODEL),
        Series("inter_token_seconds", "histogram", "Between two tokens of a streamed answer.", _MODEL),
        Series("request_duration_seconds", "histogram", "From routing to the last byte.", _MODEL),
        Series("queue_seconds", "histogram", "From the engine's queue to its first step.", _MODEL),
        Series("rejections", "counter", "Requests refused, by reason (limit or error code).", ("tenant", "reason")),
        Series("failed_attempts", "counter", "Requests with a missing or wrong key."),
        # Read from the scheduler at a scrape; a new engine counts from zero
        Series("requests_running", "gauge", "Sequences in the engine's batch.", ("tenant",)),
        Series("requests_waiting", "gauge", "Sequences that wait to be scheduled.", ("tenant",)),
        Series("kv_used_blocks", "gauge", "KV-cache blocks in use; a shared block counts once.", ("tenant",)),
        Series("kv_reserved_blocks", "gauge", "Blocks in use or needed by prompts that have started.", ("tenant",)),
        Series("kv_guaranteed_blocks", "gauge", "Blocks that a tenant always gets when it has work.", ("tenant",)),
        Series("kv_limit_blocks", "gauge", "The most blocks that a tenant may use.", ("tenant",)),
        Series("kv_capacity_blocks", "gauge", "Blocks of the whole cache."),
        Series("kv_block_seconds", "counter", "Blocks in use, times the seconds of use.", ("tenant",)),
        Series("service_units", "gauge", "Service received, divided by the weight. The lowest tenant is next.",
               ("tenant",)),
        Series("scheduler_steps", "counter", "Steps of the scheduler."),
        Series("preemptions", "counter", "Preempted sequences, by reason.", ("reason",)),
        Series("kv_limit_violations", "counter", "Steps in which a tenant exceeded its limit; always 0."),
        Series("starved_steps", "counter", "Steps in which a tenant got less than its guarantee; always 0."),
        # Adapters
        Series("adapter_versions", "gauge", "Versions in the registry.", ("tenant", "state")),
        Series("adapters_resident", "gauge", "Versions in the engine: in its memory (cpu), in the batch (gpu).",
               ("place",)),
        Series("adapter_slots", "gauge", "The most versions that can be resident.", ("place",)),
        Series("adapters_pinned", "gauge", "Versions that are never evicted."),
        Series("adapters_held", "gauge", "Versions in use by a request."),
        Series("adapter_waiting", "gauge", "Requests that wait until their adapter is resident."),
        Series("adapter_damaged", "gauge", "Stored artifacts that differ from their digest."),
        Series("adapter_load_seconds", "histogram", "Time to load one version into the engine."),
        Series("adapter_swap_seconds", "histogram", "Time to promote, split or roll back: load, probe, switch."),
        Series("adapter_load_failures", "counter", "Loads that the engine refused or did not finish."),
        Series("adapter_unloads", "counter", "Unloads that the engine confirmed."),
        Series("adapter_evictions", "counter", "Versions unloaded to make room for another."),
        Series("adapter_waits", "counter", "Requests that waited until their adapter was resident."),
        Series("adapter_busy", "counter", "Requests refused because their adapter did not become resident in time."),
        Series("adapter_drift", "counter", "Differences of registry and engine that were reconciled.", ("kind",)),
        Series("canary_rollbacks", "counter", "Canaries that were rolled back automatically."),
        # The process
        Series("ready", "gauge", "1 while the server accepts requests."),
        Series("requests_in_flight", "gauge", "Requests inside the server."),
        Series("passages", "gauge", "Deprecated name of `loragate_requests_in_flight`; gone in the next release."),
        Series("tasks", "gauge", "Tasks of the event loop."),
        Series("event_loop_lag_seconds", "histogram", "How late a timer fired because the event loop was occupied."),
        Series("engine_restarts", "counter", "Times a dead or stalled engine was started again."),
        Series("engine_stalls", "counter", "Times the engine gave no sign of life for --engine-stall-s."),
        Series("engine_silent_seconds", "gauge", "Since the engine's last sign of life; an idle one gives some."),
        Series("registry_query_seconds", "histogram", "Statements on the registry's database.", ("operation",)),
        Series("registry_away_seconds", "gauge", "Time since the database last answered; 0 while it answers."),
        Series("registry_grace_seconds", "gauge", "How long keys and models in use are served without the database."),
        Series("registry_outage_seconds", "counter", "Time in which the registry's database did not answer."),
        Series("usage_waiting_rows", "gauge", "Rows of usage that wait for the registry's database."),
        Series("usage_lost_tokens", "counter", "Tokens missing in the usage: too much waited for the database."),
        Series("records", "counter", "Requests chosen to be recorded, by what became of them.", ("outcome",)),
        Series("build_info", "gauge", "1; the labels are the versions in use.", ("version", "vllm", "python")),
    )
}  # fmt: skip


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """A histogram of `SERIES`, held by prometheus-client."""
    series = SERIES[name]
    assert series.kind == "histogram", name
    buckets = _LAG_SECONDS if name == "event_loop_lag_seconds" else _SECONDS
    return Histogram(PREFIX + name, series.help, series.labels, buckets=buckets, registry=registry)


def family(name: str, samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """A counter or gauge of `SERIES` with its samples: label values and value."""
    series = SERIES[name]
    assert series.kind != "histogram", name
    make = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    made = make(PREFIX + name, series.help, labels=series.labels)
    for values, value in samples:
        made.add_metric(values, value)
    return made


def histogram_family(name: str, samples: Iterable[tuple[Sequence[str], LatencyHistogram]]) -> Metric:
    """A histogram of `SERIES` with its samples: label values and histogram."""
    series = SERIES[name]
    assert series.kind == "histogram", name
    made = HistogramMetricFamily(PREFIX + name, series.help, labels=series.labels)
    for values, distribution in samples:
        made.add_metric(values, distribution.cumulative(), distribution.total)
    return made
