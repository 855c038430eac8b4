"""Changes two of vLLM's series.

`vllm:lora_requests_info` is turned off; `server.observability.router_series` has ours. vLLM's keeps a label set for
each combination of adapters that ever ran together, by names that clients do not know.

`vllm:inter_token_latency_seconds` is the same, but the times of a step are added together: vLLM adds each of them
alone, with two locks, for each token of each stream.

Leans on (vLLM 0.32): AsyncLLM.logger_manager, StatLoggerManager.stat_loggers, PrometheusStatLogger (`record`,
`gauge_lora_info`, `histogram_inter_token_latency`), IterationStats.inter_token_latencies_iter; and on
prometheus_client's Histogram (`_upper_bounds`, `_buckets`, `_sum`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY


def change_series(logger_manager: Any) -> None:
    """Change the series of an engine that has just started; None: it keeps no statistics."""
    for stat_logger in logger_manager.stat_loggers if logger_manager is not None else ():
        _turn_off_adapters(stat_logger)
        _add_together(stat_logger)


def observe_all(histogram: Any, values: Sequence[float]) -> None:
    """Observe several values at once."""
    histogram._sum.inc(sum(values))
    bounds = histogram._upper_bounds
    for at, times in Counter(bisect_left(bounds, value) for value in values).items():
        histogram._buckets[at].inc(times)


def _turn_off_adapters(stat_logger: Any) -> None:
    gauge = getattr(stat_logger, "gauge_lora_info", None)
    if gauge is not None:
        stat_logger.gauge_lora_info = None
        REGISTRY.unregister(gauge)


def _add_together(stat_logger: Any) -> None:
    histograms = getattr(stat_logger, "histogram_inter_token_latency", None)
    if histograms is None:
        return
    record = stat_logger.record

    def record_together(
        scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        gaps_s: list[float] = []
        if iteration_stats is not None:
            gaps_s = iteration_stats.inter_token_latencies_iter
            iteration_stats.inter_token_latencies_iter = []
        record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)
        if gaps_s:
            observe_all(histograms[engine_idx], gaps_s)

    stat_logger.record = record_together
