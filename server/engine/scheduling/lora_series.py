"""Turns off vLLM's series `vllm:lora_requests_info`; `server.observability.router_series` has ours.

vLLM's keeps a label set for each combination of adapters that ever ran together, by names that clients do not know.

Leans on (vLLM 0.32): AsyncLLM.logger_manager, StatLoggerManager.stat_loggers, PrometheusStatLogger.gauge_lora_info.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY


def turn_off_lora_series(logger_manager: Any) -> None:
    """Unregister the series of an engine that has just started; None: it keeps no statistics."""
    for stat_logger in logger_manager.stat_loggers if logger_manager is not None else ():
        gauge = getattr(stat_logger, "gauge_lora_info", None)
        if gauge is not None:
            stat_logger.gauge_lora_info = None
            REGISTRY.unregister(gauge)
