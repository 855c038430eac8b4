"""What is scraped is what the residency has counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from server.adapter_report import AdapterSeries
from tests.unit.adapters.residency.support import build, engine_adapter, run


def test_the_series_follow_the_residency() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        registry = CollectorRegistry()
        registry.register(AdapterSeries(residency.snapshot, lambda: 3, lambda: 4))

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"loragate_{name}", labels)

        await residency.pin(engine_adapter(1))
        async with residency.hold(engine_adapter(2)):
            assert (value("adapter_slots"), value("adapters_resident")) == (2, 2)
            assert (value("adapters_pinned"), value("adapters_held")) == (1, 1)
        async with residency.hold(engine_adapter(3)):
            assert value("adapter_evictions_total") == 1 and value("adapter_loads_total") == 3
        assert (
            value(
                "adapter_load_seconds_total",
            )
            is not None
        )
        loader.ids = {1, 99}
        await residency.reconcile()
        assert value("adapter_drift_total", kind="orphan") == 1
        assert value("adapter_drift_total", kind="missing") == 1
        assert value("adapter_drift_total", kind="stuck") == 0
        assert (value("adapter_damaged"), value("canary_rollbacks_total")) == (3, 4)

    run(scenario())
