"""What is scraped is what residency, registry and scheduler say at that moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import EngineGone
from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.observability.recorder import MetricsRecorder
from server.observability.scheduler_stats import SchedulerStats
from server.observability.state_collector import StateCollector
from tests.unit.adapters.residency.support import build, engine_adapter, run

TENANT_ROW = {
    "running": 2, "waiting": 1, "kv_blocks": 5, "claimed_blocks": 7, "guaranteed_blocks": 10, "limit_blocks": 50,
    "kv_block_seconds": 12.5, "service": 3.0,
}  # fmt: skip


class Parts:
    """The parts of a server, set by hand; the residency is a real one."""

    def __init__(self, residency: Any, *, label_sets: int = 100) -> None:
        self.residency = residency
        self.label_sets = label_sets
        self.tenants = [Tenant("acme"), Tenant("idle", TenantSettings(kv_guarantee=0.2, kv_limit=0.5))]
        self.registry = SimpleNamespace(
            tenants=SimpleNamespace(list=self._tenants),
            versions=SimpleNamespace(count_states=self._states),
            availability=SimpleNamespace(away_s=12.5, grace_s=60.0, outage_s=40.0),
        )
        self.report: dict[str, Any] | Exception | None = {
            "counters": {"steps": 8, "limit_violations": 0, "starved_steps": 0, "preempted_for_limit": 1,
                      "preempted_for_guarantee": 2, "preempted_for_adapter": 3, "preempted_for_foreground": 4},
            "capacity": {"kv_blocks": 100, "block_size_tokens": 16, "max_num_seqs": 4},
            "adapters_running": 1,
            "tenants": {"acme": TENANT_ROW},
        }  # fmt: skip

    async def _tenants(self) -> Any:
        return self.tenants

    async def _states(self) -> Any:
        return {(tenant.name, "ready"): 2 for tenant in self.tenants}

    async def scheduler_report(self) -> Any:
        if isinstance(self.report, Exception):
            raise self.report
        return self.report


class Scrape:
    def __init__(self, parts: Parts) -> None:
        self._registry = CollectorRegistry()
        self._metrics = MetricsRecorder(registry=self._registry)
        fakes: Any = {
            "registry": parts.registry,
            "store": SimpleNamespace(damaged={1, 2, 3}),
            "readiness": SimpleNamespace(
                accepts_requests=True, engine_restarts=3, engine_stalls=2, engine_silent_s=0.5
            ),
            "requests": SimpleNamespace(in_flight=6),
            "throttle": SimpleNamespace(failures=9),
            "canaries": SimpleNamespace(rollbacks=4),
            "usage_writer": SimpleNamespace(waiting_rows=17, lost_tokens=300),
            "records": {"written": 5},
        }
        self._state = StateCollector(
            **fakes,
            residency=parts.residency,
            scheduler_stats=SchedulerStats(parts.scheduler_report),
            max_loras=8,
            label_sets=parts.label_sets,
        )

    async def take(self) -> None:
        self._metrics.update(await self._state.collect())

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"loragate_{name}", labels)


def test_the_series_follow_the_residency() -> None:
    async def scenario() -> None:
        residency, loader = build(2)
        scrape = Scrape(Parts(residency))
        await residency.pin(engine_adapter(1))
        async with residency.hold(engine_adapter(2)):
            await scrape.take()
            assert scrape.value("adapter_slots", place="cpu") == 2
            assert scrape.value("adapters_resident", place="cpu") == 2
            assert scrape.value("adapters_resident", place="gpu") == 1
            assert (scrape.value("adapters_pinned"), scrape.value("adapters_held")) == (1, 1)
        async with residency.hold(engine_adapter(3)):
            await scrape.take()
            assert scrape.value("adapter_evictions_total") == 1 and scrape.value("adapter_unloads_total") == 1
        loader.ids = {1, 99}
        await residency.reconcile()
        await scrape.take()
        assert scrape.value("adapter_drift_total", kind="orphan") == 1
        assert scrape.value("adapter_drift_total", kind="missing") == 1
        assert scrape.value("adapter_drift_total", kind="stuck") == 0
        assert (scrape.value("adapter_damaged"), scrape.value("canary_rollbacks_total")) == (3, 4)

    run(scenario())


def test_budgets_of_busy_and_of_idle_tenants() -> None:
    async def scenario() -> None:
        scrape = Scrape(Parts(build(2)[0]))
        await scrape.take()
        acme = {"tenant": "acme"}
        assert scrape.value("kv_used_blocks", **acme) == 5 and scrape.value("kv_reserved_blocks", **acme) == 7
        assert scrape.value("kv_limit_blocks", tenant="idle") == 50
        assert scrape.value("kv_guaranteed_blocks", tenant="idle") == 20
        assert scrape.value("kv_used_blocks", tenant="idle") == 0
        assert scrape.value("preemptions_total", reason="guarantee") == 2
        assert scrape.value("preemptions_total", reason="foreground") == 4
        assert (scrape.value("engine_stalls_total"), scrape.value("engine_silent_seconds")) == (2, 0.5)
        assert (scrape.value("engine_restarts_total"), scrape.value("failed_attempts_total")) == (3, 9)
        assert scrape.value("adapter_versions", tenant="acme", state="ready") == 2

    run(scenario())


def test_an_outage_of_the_registry() -> None:
    async def scenario() -> None:
        scrape = Scrape(Parts(build(2)[0]))
        await scrape.take()
        assert scrape.value("registry_away_seconds") == 12.5 and scrape.value("registry_grace_seconds") == 60
        assert scrape.value("registry_outage_seconds_total") == 40
        assert scrape.value("usage_waiting_rows") == 17 and scrape.value("usage_lost_tokens_total") == 300

    run(scenario())


def test_tenants_are_bounded_and_others_add_up() -> None:
    async def scenario() -> None:
        parts = Parts(build(2)[0], label_sets=10)
        parts.tenants = [Tenant(f"t{number}") for number in range(500)]
        rows = {f"t{n}": TENANT_ROW | {"kv_block_seconds": float(n)} for n in range(500)}
        parts.report = {**parts.report, "tenants": rows}  # type: ignore[dict-item]
        scrape = Scrape(parts)
        await scrape.take()
        assert scrape.value("kv_used_blocks", tenant="t499") == 5
        assert scrape.value("kv_used_blocks", tenant="t3") is None
        assert scrape.value("kv_used_blocks", tenant="other") == 490 * 5
        assert scrape.value("adapter_versions", tenant="other", state="ready") == 490 * 2

    run(scenario())


@pytest.mark.parametrize("gone", [None, EngineGone("dead")])
def test_without_an_engine_the_rest_is_still_told(gone: Exception | None) -> None:
    async def scenario() -> None:
        parts = Parts(build(2)[0])
        parts.report = gone
        scrape = Scrape(parts)
        await scrape.take()
        assert scrape.value("kv_used_blocks", tenant="acme") is None
        assert scrape.value("engine_restarts_total") == 3

    run(scenario())
