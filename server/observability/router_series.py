"""The series of vLLM that routers of inference requests read, with the names that clients call.

The LoRA scorer of the Gateway API inference extension, and llm-d with it, sends a request to a server whose
`vllm:lora_requests_info` names the request's `model`. vLLM's own series names adapters as the engine knows them, with
a version, and keeps a label set for each combination that it has ever seen; `server.engine.runtime` turns it off.
`vllm:lora_adapter_loaded` is proposed for adapters that are loaded and idle (vllm#54830).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from adapters.names import public_name
from adapters.residency import Phase
from adapters.residency.slots import ResidencySnapshot

_ENGINE_NAME = re.compile(r"(.+)/(.+)@\d+#")


def router_series(snapshot: ResidencySnapshot, max_loras: int) -> Iterator[Metric]:
    """The adapters in use, those that requests wait for, and those that are loaded."""
    running, waiting = names_in_use(snapshot)
    labels = ("max_lora", "waiting_lora_adapters", "running_lora_adapters")
    info = GaugeMetricFamily(
        "vllm:lora_requests_info", "Adapters of running and waiting requests.", labels=labels
    )
    info.add_metric((str(max_loras), ",".join(waiting), ",".join(running)), time.time())
    yield info
    loaded = GaugeMetricFamily(
        "vllm:lora_adapter_loaded", "Adapters in the engine's memory.", labels=("adapter_name", "level")
    )
    for name in names_loaded(snapshot):
        loaded.add_metric((name, "cpu"), 1)
    yield loaded


def names_in_use(snapshot: ResidencySnapshot) -> tuple[list[str], list[str]]:
    """What clients call the adapters of running requests, and those that requests wait for."""
    held = [slot for slot in snapshot.slots if slot.holders]
    running = (slot.engine_name for slot in held if slot.phase is Phase.RESIDENT)
    loading = (slot.engine_name for slot in held if slot.phase is Phase.LOADING)
    return _public(running), _public([*loading, *snapshot.waiting_for])


def names_loaded(snapshot: ResidencySnapshot) -> list[str]:
    """What clients call the adapters in the engine's memory."""
    return _public(slot.engine_name for slot in snapshot.slots if slot.phase is Phase.RESIDENT)


def _public(engine_names: Iterable[str]) -> list[str]:
    """What clients call the adapters, each once; an adapter's versions have one name."""
    found = filter(None, map(_ENGINE_NAME.match, engine_names))
    return sorted({public_name(match[1], match[2]) for match in found})
