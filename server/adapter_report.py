"""What the server tells of its adapters as a whole: Prometheus series, and the engine against the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapters.lifecycle import DriftKind
from adapters.residency import ResidencySnapshot


class AdapterSeries(Collector):
    """Reads the residency when it is scraped, so nothing is counted twice or forgotten.

    Args:
        snapshot: the residency at this moment.
        damaged: stored artifacts that differ from their digest.
        rollbacks: canaries that were rolled back by themselves.
    """

    def __init__(
        self,
        snapshot: Callable[[], ResidencySnapshot],
        damaged: Callable[[], int],
        rollbacks: Callable[[], int],
    ) -> None:
        self._snapshot = snapshot
        self._damaged = damaged
        self._rollbacks = rollbacks

    def collect(self) -> Iterable[Metric]:
        """All series."""
        snapshot = self._snapshot()
        counts = snapshot.counts
        yield _gauge("adapter_slots", "Most adapter versions in the engine.", snapshot.capacity)
        yield _gauge("adapters_resident", "Adapter versions in the engine.", len(snapshot.slots))
        pinned = sum(slot.pinned for slot in snapshot.slots)
        yield _gauge("adapters_pinned", "Of these, pinned.", pinned)
        held = sum(slot.holders > 0 for slot in snapshot.slots)
        yield _gauge("adapters_held", "Of these, used by a request.", held)
        yield _gauge("adapter_waiting", "Requests that wait for a slot.", snapshot.waiting)
        yield _gauge("adapter_damaged", "Stored artifacts that differ from their digest.", self._damaged())
        yield _counter("adapter_loads", "Loads into the engine.", counts.loads)
        yield _counter("adapter_load_failures", "Loads that failed.", counts.load_failures)
        yield _counter("adapter_load_seconds", "Time spent loading.", counts.load_s)
        yield _counter("adapter_unloads", "Confirmed unloads.", counts.unloads)
        yield _counter("adapter_evictions", "Unloads that made room for another one.", counts.evictions)
        yield _counter("adapter_waits", "Requests that had to wait for a slot.", counts.waits)
        yield _counter("adapter_busy", "Requests that waited in vain.", counts.busy)
        yield _counter("canary_rollbacks", "Canaries rolled back by themselves.", self._rollbacks())
        drift = CounterMetricFamily(
            "loragate_adapter_drift", "Differences between engine and registry, mended.", labels=["kind"]
        )
        drift.add_metric([DriftKind.ORPHAN], counts.orphans)
        drift.add_metric([DriftKind.MISSING], counts.missing)
        drift.add_metric([DriftKind.STUCK], counts.unload_failures)
        yield drift


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"loragate_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"loragate_{name}", text, value)
