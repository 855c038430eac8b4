"""What /metrics says: bounded, complete, and adding up."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from adapters.models import Key, Role, Tenant, Version, VersionState
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.observability.metrics import SERIES, Series, family
from server.observability.recorder import MetricsRecorder
from server.request.context import Caller, RequestContext, Target
from server.request.latency_histogram import GAP_BOUNDS_S, LatencyHistogram

NOW = datetime.now(UTC)
KEY = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW)


def context(tenant: str, adapter: str, number: int = 1) -> RequestContext:
    version = Version(tenant, adapter, number, 7, VersionState.READY, "", NOW) if adapter else None
    caller = Caller(KEY, Tenant(tenant) if tenant else None)
    made = RequestContext(
        "r", Endpoint.CHAT, caller, Target("m", version), Resolved({}, {}, ()), TenantSettings(), "s"
    )
    made.usage.prompt_tokens, made.usage.generated_tokens = 5, 2
    made.usage.finish_reasons.append("stop")
    made.usage.first_token_at = made.started_at + 0.02
    made.usage.gap_s.add(0.003)
    return made


def samples(metrics: MetricsRecorder) -> list[tuple[str, dict[str, str], float]]:
    metrics.update()
    text = metrics.exposition().decode()
    return [
        (sample.name, sample.labels, sample.value)
        for found in text_string_to_metric_families(text)
        for sample in found.samples
    ]


def test_ten_thousand_adapters_make_as_many_label_sets_as_allowed() -> None:
    metrics = MetricsRecorder(20, CollectorRegistry())
    for number in range(10_000):
        metrics.requests.observe(context(f"t{number % 300}", f"a{number}"), 200)
        metrics.requests.refuse(f"t{number}", "rpm")
    found = samples(metrics)
    per_series: dict[str, set[tuple[str, ...]]] = {}
    for name, labels, _ in found:
        if "tenant" in labels:
            model = tuple(labels.get(label, "") for label in ("tenant", "adapter", "version"))
            per_series.setdefault(name, set()).add(model)
    assert {name: len(models) for name, models in per_series.items() if len(models) > 21} == {}
    assert len(per_series["loragate_requests_total"]) == 21
    assert ("other", "other", "other") in per_series["loragate_requests_total"]


@settings(max_examples=examples(40), deadline=None)
@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "x", "y"]), st.sampled_from([200, 429]))
    ),
)
def test_nothing_is_lost_in_other(label_sets: int, requests: list[tuple[str, str, int]]) -> None:
    metrics = MetricsRecorder(label_sets, CollectorRegistry())
    for tenant, adapter, status in requests:
        metrics.requests.observe(context(tenant, adapter), status)
    sums: Counter[str] = Counter()
    for name, _, value in samples(metrics):
        sums[name] += value
    assert sums["loragate_requests_total"] == len(requests)
    assert sums["loragate_tokens_total"] == 7 * len(requests)
    assert sums["loragate_finishes_total"] == len(requests)
    assert sums["loragate_inter_token_seconds_count"] == len(requests)
    assert sums["loragate_time_to_first_token_seconds_sum"] == pytest.approx(0.02 * len(requests))


def test_reasons_are_bounded_too() -> None:
    metrics = MetricsRecorder(5, CollectorRegistry())
    for number in range(500):
        metrics.requests.refuse("acme", f"reason-{number}")
    reasons = {
        labels["reason"] for name, labels, _ in samples(metrics) if name == "loragate_rejections_total"
    }
    assert len(reasons) == 65 and "other" in reasons


def test_buckets_are_cumulative_and_end_in_the_count() -> None:
    gaps = LatencyHistogram(GAP_BOUNDS_S)
    for value in (0.001, 0.0011, 0.004, 99.0):
        gaps.add(value, 2)
    buckets = dict(gaps.cumulative())
    assert buckets["0.001"] == 2 and buckets["0.0025"] == 4 and buckets["0.005"] == 6
    assert buckets["2.5"] == 6 and buckets["+Inf"] == 8
    assert gaps.total == pytest.approx(2 * (0.001 + 0.0011 + 0.004 + 99.0))


@pytest.mark.parametrize("series", SERIES.values(), ids=lambda series: series.name)
def test_names_are_prometheus_style(series: Series) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", series.name) and not series.name.endswith("_total")
    assert not re.search(r"_(ms|kb|mb|gb|minutes|percent)\b", series.name), "base units"
    assert series.kind != "histogram" or series.name.endswith("_seconds")
    assert series.help.endswith(".") and len(series.help) < 100


def test_what_is_not_declared_cannot_be_shown() -> None:
    with pytest.raises(KeyError):
        family("made_up", [])
