"""The present state of the server as metrics, read from its parts at each scrape."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client.metrics_core import Metric

from adapters.errors import RegistryUnavailable
from adapters.lifecycle import DriftKind
from adapters.models import Tenant
from adapters.registry import Registry
from adapters.residency import Phase, Residency
from adapters.store.store import Store
from server.auth.throttle import AuthThrottle
from server.background.canary_rollback import CanaryRollback
from server.config.versions import vllm_version
from server.fairness.shares import Capacity, Share
from server.observability.metrics import family
from server.observability.readiness import Readiness
from server.observability.request_collector import OTHER
from server.observability.router_series import router_series
from server.observability.scheduler_stats import REPORT_TIMEOUT_S, Report, SchedulerStats
from server.request.request_service import RequestService
from server.usage.records.recording import Outcome
from server.usage.writer import UsageWriter

logger = logging.getLogger("loragate.metrics")

#: However many scrapers there are, the registry is read no more often than this.
REGISTRY_INTERVAL_S = 10.0

#: `scheduler_report`'s fields -> series, per tenant.
_PER_TENANT = {
    "running": "requests_running",
    "waiting": "requests_waiting",
    "kv_blocks": "kv_used_blocks",
    "claimed_blocks": "kv_reserved_blocks",
    "guaranteed_blocks": "kv_guaranteed_blocks",
    "limit_blocks": "kv_limit_blocks",
    "kv_block_seconds": "kv_block_seconds",
    "service": "service_units",
}
_PREEMPTION_REASONS = ("limit", "guarantee", "adapter", "foreground")


@dataclass(slots=True)
class StateCollector:
    """Reads everything once per scrape."""

    registry: Registry
    store: Store
    residency: Residency
    scheduler_stats: SchedulerStats
    readiness: Readiness
    requests: RequestService
    throttle: AuthThrottle
    canaries: CanaryRollback
    usage_writer: UsageWriter
    records: Mapping[Outcome, int]
    """Requests that were chosen to be recorded, by what became of them."""
    max_loras: int
    label_sets: int
    """The most tenants with series of their own."""
    _report: Report | None = None
    _tenants: dict[str, Tenant] = field(default_factory=dict)
    _versions: Counter[tuple[str, str]] = field(default_factory=Counter)
    _registry_read_at: float = float("-inf")

    async def collect(self) -> list[Metric]:
        """All series of the present state."""
        await asyncio.gather(self._read_scheduler(), self._read_registry())
        return [
            *self._process(),
            *self._database(),
            *self._adapters(),
            *router_series(self.residency.snapshot(), self.max_loras),
            *self._versions_by_state(),
            *self._scheduler(),
        ]

    async def _read_scheduler(self) -> None:
        try:
            self._report = await self.scheduler_stats.read(max_age_s=0.0, timeout_s=REPORT_TIMEOUT_S)
        except TimeoutError:
            logger.warning(
                "The scheduler did not answer a scrape within %g s; the scrape shows its last report.",
                REPORT_TIMEOUT_S,
            )

    async def _read_registry(self) -> None:
        if time.monotonic() - self._registry_read_at < REGISTRY_INTERVAL_S:
            return
        try:
            self._tenants = {tenant.name: tenant for tenant in await self.registry.tenants.list()}
            self._versions = Counter(await self.registry.versions.count_states())
        except RegistryUnavailable:
            logger.warning("The registry did not answer a scrape; the scrape shows its last state.")
        self._registry_read_at = time.monotonic()

    def _process(self) -> Iterator[Metric]:
        yield family("ready", [((), float(self.readiness.accepts_requests))])
        for name in ("requests_in_flight", "passages"):  # the second is the first release's name
            yield family(name, [((), self.requests.in_flight)])
        yield family("tasks", [((), len(asyncio.all_tasks()))])
        yield family("engine_restarts", [((), self.readiness.engine_restarts)])
        yield family("engine_stalls", [((), self.readiness.engine_stalls)])
        yield family("engine_silent_seconds", [((), self.readiness.engine_silent_s)])
        yield family("records", [((outcome,), self.records.get(outcome, 0)) for outcome in Outcome])
        yield family("failed_attempts", [((), self.throttle.failures)])
        yield family("build_info", [((version("loragate"), vllm_version(), platform.python_version()), 1)])

    def _database(self) -> Iterator[Metric]:
        availability = self.registry.availability
        yield family("registry_away_seconds", [((), availability.away_s)])
        yield family("registry_grace_seconds", [((), availability.grace_s)])
        yield family("registry_outage_seconds", [((), availability.outage_s)])
        yield family("usage_waiting_rows", [((), self.usage_writer.waiting_rows)])
        yield family("usage_lost_tokens", [((), self.usage_writer.lost_tokens)])

    def _adapters(self) -> Iterator[Metric]:
        snapshot = self.residency.snapshot()
        counts = snapshot.counts
        resident = sum(slot.phase is Phase.RESIDENT for slot in snapshot.slots)
        in_batch = (self._report or {}).get("adapters_running", 0)
        yield family("adapters_resident", [(("cpu",), resident), (("gpu",), in_batch)])
        yield family("adapter_slots", [(("cpu",), snapshot.capacity), (("gpu",), self.max_loras)])
        yield family("adapters_pinned", [((), sum(slot.pinned for slot in snapshot.slots))])
        yield family("adapter_waiting", [((), snapshot.waiting)])
        yield family("adapters_held", [((), sum(slot.holders > 0 for slot in snapshot.slots))])
        yield family("adapter_damaged", [((), len(self.store.damaged))])
        yield family("canary_rollbacks", [((), self.canaries.rollbacks)])
        yield family("adapter_unloads", [((), counts.unloads)])
        yield family("adapter_busy", [((), counts.busy)])
        yield family("adapter_load_failures", [((), counts.load_failures)])
        yield family("adapter_evictions", [((), counts.evictions)])
        yield family("adapter_waits", [((), counts.waits)])
        yield family(
            "adapter_drift",
            [
                ((DriftKind.ORPHAN,), counts.orphans),
                ((DriftKind.MISSING,), counts.missing),
                ((DriftKind.STUCK,), counts.unload_failures),
            ],
        )

    def _versions_by_state(self) -> Iterator[Metric]:
        by_tenant: dict[str, Counter[str]] = defaultdict(Counter)
        for (tenant, state), count in self._versions.items():
            by_tenant[tenant][state] += count
        shown = self._bounded({tenant: sum(states.values()) for tenant, states in by_tenant.items()})
        states_of: Counter[tuple[str, str]] = Counter()
        for (tenant, state), count in self._versions.items():
            states_of[tenant if tenant in shown else OTHER, state] += count
        yield family("adapter_versions", states_of.items())

    def _scheduler(self) -> Iterator[Metric]:
        report = self._report
        if report is None:
            return
        counts, capacity = report["counters"], Capacity(**report["capacity"])
        yield family("kv_capacity_blocks", [((), capacity.kv_blocks)])
        yield family("scheduler_steps", [((), counts["steps"])])
        yield family(
            "preemptions", [((reason,), counts[f"preempted_for_{reason}"]) for reason in _PREEMPTION_REASONS]
        )
        yield family("kv_limit_violations", [((), counts["limit_violations"])])
        yield family("starved_steps", [((), counts["starved_steps"])])
        tenants = {**_idle(self._tenants, capacity), **report["tenants"]}
        shown = self._bounded({name: row["kv_block_seconds"] for name, row in tenants.items()})
        for column, name in _PER_TENANT.items():
            sums: dict[tuple[str], float] = defaultdict(float)
            for tenant, row in tenants.items():
                sums[(tenant if tenant in shown else OTHER,)] += row[column]
            yield family(name, sums.items())

    def _bounded(self, traffic: Mapping[str, float]) -> set[str]:
        """The busiest tenants, which have series of their own; the others share one."""
        return set(sorted(traffic, key=traffic.__getitem__, reverse=True)[: self.label_sets])


def _idle(tenants: Mapping[str, Tenant], capacity: Capacity) -> dict[str, dict[str, float]]:
    """Rows of tenants that the scheduler has not seen: no use, their guarantee and their limit."""
    rows = {}
    for name, tenant in tenants.items():
        share = Share.of(tenant.settings)
        rows[name] = dict.fromkeys(_PER_TENANT, 0.0) | {
            "guaranteed_blocks": float(capacity.guaranteed_blocks(share)),
            "limit_blocks": float(capacity.limit_blocks(share)),
        }
    return rows
