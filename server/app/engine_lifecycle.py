"""The engine and the adapters in it: how it is started, and what is done each time one has started."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace

from starlette.datastructures import Headers

from adapters.depot.depot import Depot
from adapters.errors import EngineGone, RegistryUnavailable
from adapters.lifecycle import Lifecycle
from adapters.lifecycle.blends.request_blends import BlendLimits
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.store.store import Store
from server.admission import Admission
from server.admission.leases import Leases
from server.app import demo_seed, garbage_collection
from server.app.database import retrying
from server.config.logs import error_log
from server.config.settings import Settings
from server.engine.base_model import BaseModel
from server.engine.decoding.token_generation import generate_tokens
from server.engine.handlers import VllmHandlers
from server.engine.rendering.prompt_workers import PromptWorkers
from server.engine.runtime import Engine, start
from server.engine.supervisor import State, Supervisor
from server.errors import EngineUnavailable
from server.fairness.shares import Capacity
from server.observability.recorder import MetricsRecorder
from server.observability.scheduler_stats import Report, SchedulerStats
from server.planner.out_of_memory import OutOfMemoryReport
from server.request.context import Answer, RequestContext
from server.request.gate import Gate

logger = logging.getLogger("loragate")

#: What the blends of requests may take on the disk, in adapters of the largest size.
_BLENDS_BYTES = 4
#: The capacity before the first engine has started.
_NO_CAPACITY = Capacity(kv_blocks=1, block_size_tokens=1, max_num_seqs=1)


class EngineLifecycle:
    """Owns the engine's supervisor, and everything whose state belongs to one engine.

    Args:
        settings: what to serve.
        registry, store: the adapters.
        base: the base model's files.
        metrics: observes loads and swaps.
        runner: the one thread that starts engines (see `server.engine.process.parent_death`).
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: Store,
        base: BaseModel,
        metrics: MetricsRecorder,
        runner: Executor,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._runner = runner
        self._memory = OutOfMemoryReport(settings, error_log(settings.home))
        self.admission = Admission(_NO_CAPACITY, shared=registry.membership.is_shared)
        self.leases = Leases(registry.leases, lambda: self.admission.accounts)
        self.gate = Gate(self.admission)
        self.supervisor: Supervisor[Engine] = Supervisor(
            self._start,
            self.gate,
            on_start=self._started,
            backoff_s=settings.restart_backoff_s,
            stall_s=settings.engine_stall_s,
            explain=self._memory.explain,
        )
        self.scheduler_stats = SchedulerStats(self._scheduler_report)
        self.residency = Residency(
            self._loader,
            capacity=settings.adapters_held,
            wait_s=settings.adapter_wait_s,
            observe_load=metrics.load_s.observe,
        )
        self.depot = Depot(settings.depot) if settings.depot else None
        self._lora_layers: frozenset[str] | None = None  # of the last engine: all have the same
        self.adapters = self._lifecycle(store, base, metrics)

    def _lifecycle(self, store: Store, base: BaseModel, metrics: MetricsRecorder) -> Lifecycle:
        settings = self._settings
        return Lifecycle(
            self._registry,
            store,
            self.residency,
            replace(base.rules, lora_layers=lambda: self._lora_layers),
            depot=self.depot,
            store_max_bytes=settings.store_max_bytes,
            prove_on=None if settings.prove_on == "all" else settings.prove_on,
            blend_limits=BlendLimits(
                settings.max_blends,
                settings.blends_per_minute,
                _BLENDS_BYTES * settings.max_adapter_bytes,
                settings.adapter_wait_s,
            ),
            observe_swap=metrics.swap_s.observe,
        )

    def handlers(self) -> VllmHandlers:
        """The running engine's handlers. Raises: EngineUnavailable."""
        engine = self.supervisor.engine
        if engine is None:
            raise EngineUnavailable
        return engine.handlers

    def prompts(self) -> PromptWorkers:
        """The running engine's workers for large prompts. Raises: EngineUnavailable."""
        engine = self.supervisor.engine
        if engine is None:
            raise EngineUnavailable
        return engine.prompts

    async def handle(self, context: RequestContext, headers: Headers) -> Answer:
        """Serve one request; see `VllmHandlers.handle`. Raises: LoragateError."""
        return await self.handlers().handle(context, headers)

    async def generate_tokens(self, context: RequestContext, headers: Headers) -> Answer:
        """Serve one request of the server's own; see `server.engine.decoding.token_generation`."""
        return await generate_tokens(self.gate, self.handlers(), context)

    def max_model_len(self) -> int | None:
        """The longest prompt plus answer, in tokens; without an engine the setting, which may be None."""
        engine = self.supervisor.engine
        return engine.max_model_len if engine else self._settings.max_model_len

    def _loader(self) -> Engine:
        engine = self.supervisor.engine
        if engine is None or engine.errored:  # as between two engines
            raise EngineGone("No engine is running at the moment; try again shortly.")
        return engine

    async def _scheduler_report(self) -> Report | None:
        engine = self.supervisor.engine
        if engine is None or self.supervisor.state not in (State.READY, State.DRAINING):
            return None
        return await engine.scheduler_report()

    async def _start(self) -> Engine:
        self._memory.begin()
        return await start(self._settings, self.gate, self._runner)

    async def _started(self, engine: Engine) -> None:
        """Before the first request: set the capacity, and bring the adapters back."""
        self.scheduler_stats.engine_started()
        self.admission.capacity = engine.capacity
        self._lora_layers = engine.lora_layers
        if self.supervisor.restarts:
            await self.residency.reset()
            with suppress(RegistryUnavailable):  # a restart of the engine does not need the database
                await self._add_demo_adapters()
        else:
            await retrying(self._settings.wait_for_database_s, self._restore_pins)
            await retrying(self._settings.wait_for_database_s, self._add_demo_adapters)

    async def _restore_pins(self) -> None:
        for error in await self.adapters.restore_pins():
            logger.error("A pinned adapter could not be loaded: %s", error)

    async def _add_demo_adapters(self) -> None:
        if self._settings.demo:
            await demo_seed.add_adapters(self._registry, self.adapters)
        garbage_collection.freeze_living()
