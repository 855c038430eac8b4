"""The series of vLLM that are changed, on vLLM's own logger."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats

from server.engine.scheduling.vllm_series import change_series, observe_all

BOUNDS = (0.01, 0.025, 0.05, 1.0)


def histogram() -> Histogram:
    return Histogram("gaps", "Seconds.", buckets=BOUNDS, registry=CollectorRegistry())


def samples(made: Histogram) -> dict[str, float]:
    found = {}
    for sample in next(iter(made.collect())).samples:
        if not sample.name.endswith("_created"):
            found[f"{sample.name}{sample.labels}"] = sample.value
    return found


@given(st.lists(st.one_of(st.floats(0, 3), st.sampled_from(BOUNDS))))
def test_values_that_are_observed_together_are_those_that_are_observed_alone(values: list[float]) -> None:
    together, alone = histogram(), histogram()
    observe_all(together, values)
    for value in values:
        alone.observe(value)
    assert samples(together) == pytest.approx(samples(alone))


class Logger:
    """As vLLM's, with the one series that is of interest."""

    def __init__(self) -> None:
        self.histogram_inter_token_latency = {0: histogram()}
        self.recorded: list[Any] = []

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        self.recorded.append((scheduler_stats, iteration_stats, mm_cache_stats, engine_idx))
        for gap_s in iteration_stats.inter_token_latencies_iter if iteration_stats else ():
            self.histogram_inter_token_latency[engine_idx].observe(gap_s)


def test_each_time_between_tokens_is_counted_once() -> None:
    logger = Logger()
    change_series(SimpleNamespace(stat_loggers=[logger, SimpleNamespace()]))
    stats = IterationStats()
    stats.inter_token_latencies_iter = [0.02, 0.02, 7.0]
    logger.record(None, stats, mm_cache_stats=None, engine_idx=0)
    logger.record("scheduler's", None, mm_cache_stats="m", engine_idx=0)
    assert samples(logger.histogram_inter_token_latency[0])["gaps_count{}"] == 3
    assert [row[0] for row in logger.recorded] == [None, "scheduler's"]


def test_an_engine_without_statistics_is_left_alone() -> None:
    change_series(None)


def test_vllm_adds_them_where_we_think() -> None:
    source = inspect.getsource(PrometheusStatLogger.record)
    assert "for itl in iteration_stats.inter_token_latencies_iter:" in source
    assert source.count("inter_token_latencies_iter") == 1
    assert list(inspect.signature(PrometheusStatLogger.record).parameters)[1:] == [
        "scheduler_stats",
        "iteration_stats",
        "mm_cache_stats",
        "engine_idx",
    ]
