"""The state of the server at one moment, as metrics: asked of the parts at each scrape, not kept up to date."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from adapters.errors import EngineGone, RegistryUnavailable
from adapters.lifecycle import DriftKind
from adapters.models import Tenant
from adapters.registry import Registry
from adapters.residency import Phase, Residency
from adapters.store.store import Store
from server.auth.throttle import Attempts
from server.background.canary_rollback import CanaryRollback
from server.config.settings import Settings
from server.config.versions import vllm_version
from server.engine.supervisor import Supervisor
from server.fairness.policy import Capacity, Share
from server.observability.metrics import family
from server.observability.request_collector import OTHER
from server.observability.scheduler_stats import Report

logger = logging.getLogger("loragate.metrics")

#: A scheduler in the middle of a long step answers after it; a scrape shows what was known instead.
REPORT_TIMEOUT_S = 1.0
#: The registry is asked at most so often, however many scrape.
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
_PREEMPTED_FOR = ("limit", "guarantee", "adapter")


class Subject(Protocol):
    """What is looked at: the composed server."""

    registry: Registry
    attempts: Attempts
    canaries: CanaryRollback
    residency: Residency
    settings: Settings
    supervisor: Supervisor[Any]
    requests_in_flight: int

    @property
    def welcome(self) -> bool:
        """Whether new requests are wanted."""

    async def scheduler_report(self) -> Report | None:
        """See `server.engine.scheduling.scheduler_report`; None while there is no engine."""


class StateCollector:
    """Looks at everything once per scrape."""

    def __init__(self, subject: Subject, store: Store) -> None:
        self._store = store
        self._subject = subject
        self._label_sets = subject.settings.metrics_label_sets
        self._report: Report | None = None
        self._tenants: dict[str, Tenant] = {}
        self._versions: Counter[tuple[str, str]] = Counter()
        self._registry_read_at = float("-inf")

    async def take(self) -> list[Metric]:
        """All series of the present state."""
        await asyncio.gather(self._ask_scheduler(), self._ask_registry())
        return [*self._process(), *self._adapters(), *self._versions_by_state(), *self._scheduler()]

    async def _ask_scheduler(self) -> None:
        try:
            self._report = await asyncio.wait_for(self._subject.scheduler_report(), REPORT_TIMEOUT_S)
        except (TimeoutError, EngineGone):
            logger.warning("the scheduler did not answer a scrape in time")

    async def _ask_registry(self) -> None:
        if time.monotonic() - self._registry_read_at < REGISTRY_INTERVAL_S:
            return
        try:
            self._tenants = {tenant.name: tenant for tenant in await self._subject.registry.tenants.list()}
            self._versions = Counter(await self._subject.registry.versions.count_states())
        except RegistryUnavailable:
            logger.warning("the registry did not answer a scrape")
        self._registry_read_at = time.monotonic()

    def _process(self) -> Iterator[Metric]:
        subject = self._subject
        yield family("ready", [((), float(subject.welcome))])
        for name in ("requests_in_flight", "passages"):  # the second is the first release's name
            yield family(name, [((), subject.requests_in_flight)])
        yield family("tasks", [((), len(asyncio.all_tasks()))])
        yield family("engine_restarts", [((), subject.supervisor.restarts)])
        yield family("failed_attempts", [((), subject.attempts.total)])
        yield family("build_info", [((version("loragate"), vllm_version(), platform.python_version()), 1)])

    def _adapters(self) -> Iterator[Metric]:
        snapshot = self._subject.residency.snapshot()
        counts = snapshot.counts
        resident = sum(slot.phase is Phase.RESIDENT for slot in snapshot.slots)
        in_batch = (self._report or {}).get("adapters_running", 0)
        places = [(("cpu",), resident), (("gpu",), in_batch)]
        yield family("adapters_resident", places)
        most = [(("cpu",), snapshot.capacity), (("gpu",), self._subject.settings.max_loras)]
        yield family("adapter_slots", most)
        yield family("adapters_pinned", [((), sum(slot.pinned for slot in snapshot.slots))])
        yield family("adapter_waiting", [((), snapshot.waiting)])
        yield family("adapters_held", [((), sum(slot.holders > 0 for slot in snapshot.slots))])
        yield family("adapter_damaged", [((), len(self._store.damaged))])
        yield family("canary_rollbacks", [((), self._subject.canaries.rollbacks)])
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
        counters, capacity = report["counters"], Capacity(**report["capacity"])
        yield family("kv_capacity_blocks", [((), capacity.kv_blocks)])
        yield family("scheduler_steps", [((), counters["steps"])])
        yield family("preemptions", [((why,), counters[f"preempted_for_{why}"]) for why in _PREEMPTED_FOR])
        yield family("kv_limit_violations", [((), counters["limit_violations"])])
        yield family("starved_steps", [((), counters["starved_steps"])])
        tenants = {**_idle(self._tenants, capacity), **report["tenants"]}
        shown = self._bounded({name: row["kv_block_seconds"] for name, row in tenants.items()})
        for field, name in _PER_TENANT.items():
            sums: dict[tuple[str], float] = defaultdict(float)
            for tenant, row in tenants.items():
                sums[(tenant if tenant in shown else OTHER,)] += row[field]
            yield family(name, sums.items())

    def _bounded(self, traffic: Mapping[str, float]) -> set[str]:
        """The busiest tenants; the others are shown as one."""
        return set(sorted(traffic, key=traffic.__getitem__, reverse=True)[: self._label_sets])


def _idle(tenants: Mapping[str, Tenant], capacity: Capacity) -> dict[str, dict[str, float]]:
    """Rows of tenants that the scheduler has not seen: nothing in use, and what they are entitled to."""
    rows = {}
    for name, tenant in tenants.items():
        share = Share.of(tenant.settings)
        rows[name] = dict.fromkeys(_PER_TENANT, 0.0) | {
            "guaranteed_blocks": float(capacity.guaranteed_blocks(share)),
            "limit_blocks": float(capacity.limit_blocks(share)),
        }
    return rows
