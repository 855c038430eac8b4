"""What a server of ours still holds when no request runs."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

#: Gauges that must be 0 after the last request.
HELD = (
    "loragate_requests_in_flight",
    "loragate_requests_running",
    "loragate_requests_waiting",
    "loragate_kv_used_blocks",
    "loragate_adapters_held",
)


async def left_behind(http: httpx.AsyncClient) -> float:
    """The sum of the gauges of resources that are still held when no request runs."""
    text = (await http.get("/metrics")).text
    return sum(
        sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
        if sample.name in HELD
    )
