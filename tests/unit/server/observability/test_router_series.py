"""Routers find an adapter by the name that clients call."""

from __future__ import annotations

import time

from prometheus_client.metrics_core import Metric

from adapters.residency import Phase
from adapters.residency.slots import ResidencyCounts, ResidencySnapshot, SlotView
from server.observability.router_series import router_series


def slot(name: str, phase: Phase, holders: int) -> SlotView:
    return SlotView(1, name, phase, holders, False, 0.0)


def series(*slots: SlotView, waiting_for: tuple[str, ...] = ()) -> dict[str, Metric]:
    snapshot = ResidencySnapshot(8, waiting_for, slots, ResidencyCounts())
    return {metric.name: metric for metric in router_series(snapshot, 4)}


def test_adapters_are_named_as_clients_call_them() -> None:
    found = series(
        slot("acme/support@1#d9c7", Phase.RESIDENT, 2),
        slot("acme/support@2#aaaa", Phase.RESIDENT, 1),
        slot("globex/tools@1#bbbb", Phase.RESIDENT, 0),
        slot("initech/desk@3#cccc", Phase.LOADING, 1),
        waiting_for=("acme/late@1#dddd", "acme/late@1#dddd"),
    )
    (info,) = found["vllm:lora_requests_info"].samples
    assert info.labels == {
        "max_lora": "4",
        "running_lora_adapters": "acme-support",
        "waiting_lora_adapters": "acme-late,initech-desk",
    }
    assert abs(info.value - time.time()) < 60
    loaded = {sample.labels["adapter_name"] for sample in found["vllm:lora_adapter_loaded"].samples}
    assert loaded == {"acme-support", "globex-tools"}


def test_without_adapters_the_info_is_there_and_empty() -> None:
    found = series()
    (info,) = found["vllm:lora_requests_info"].samples
    assert info.labels["running_lora_adapters"] == info.labels["waiting_lora_adapters"] == ""
    assert found["vllm:lora_adapter_loaded"].samples == []
