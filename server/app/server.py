"""One running loragate: what the routes ask, over the parts that answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers

from adapters.errors import EngineGone, LoadFailed, RegistryUnavailable, StoreDamaged
from adapters.lifecycle import Lifecycle
from adapters.models import EngineAdapter, Version
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.sources import Uploads
from adapters.store.store import Store
from sampling.endpoints import Endpoint
from sampling.layers import Resolved
from server.admission import Admission
from server.app import demo_seed
from server.auth.authenticator import Authenticator
from server.auth.throttle import Attempts
from server.background.canary_rollback import CanaryRollback, limits_of, rating_limits_of
from server.background.maintenance import MaintenanceLoop
from server.config.logs import error_log
from server.config.settings import Settings, otlp_protocol
from server.engine.adapter_loader import running_engine
from server.engine.base_model import BaseModel
from server.engine.runtime import Engine, start
from server.engine.supervisor import State, Supervisor
from server.errors import AdapterUnavailable, Draining, EngineUnavailable
from server.fairness.policy import OPERATOR_SETTINGS, Capacity
from server.observability.metrics_endpoint import MetricsEndpoint
from server.observability.recorder import Metrics
from server.observability.scheduler_stats import Report, SchedulerStats, block_seconds
from server.observability.state_collector import StateCollector
from server.observability.tracing import Tracing
from server.planner.failure import MemoryWatch
from server.request.context import Answer, Caller, RequestContext
from server.request.gate import Gate
from server.request.routing import Router, sticky_part
from server.request.sampling import Decoding
from server.usage.feedback import FeedbackService
from server.usage.ledger import Ledger
from server.usage.recent_requests import RecentAnswers, RecentFailures

logger = logging.getLogger("loragate")

#: What an engine has before one was started; replaced by the real figures at every start.
_NO_CAPACITY = Capacity(kv_blocks=1, block_size_tokens=1, max_num_seqs=1)


class Server:
    """One running loragate: what the routes ask, over the parts that answer."""

    def __init__(
        self, settings: Settings, registry: Registry, store: Store, base: BaseModel, runner: Executor
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.auth = Authenticator(registry)
        self.attempts = Attempts()
        self.router = Router(registry, base_model_name=settings.base_model_name)
        self.metrics = Metrics(settings.metrics_label_sets)
        self.base = base
        self.decoding = Decoding.of(settings, base.generation_config)
        self.presets = self.decoding.presets
        self._admission = Admission(_NO_CAPACITY)
        self._gate = Gate(self._admission)
        self._salt_key = secrets.token_bytes(32)
        self._memory = MemoryWatch(settings, error_log(settings.home))
        self.supervisor: Supervisor[Engine] = Supervisor(
            lambda: self._start_engine(runner),
            self._gate,
            on_start=self._engine_started,
            backoff_s=settings.restart_backoff_s,
            explain=self._memory.explain,
        )
        self.residency = Residency(
            lambda: running_engine(self.supervisor),
            capacity=settings.adapters_held,
            wait_s=settings.adapter_wait_s,
            observe_load=self.metrics.load_s.observe,
        )
        self.lifecycle = Lifecycle(
            registry, store, self.residency, base.rules, observe_swap=self.metrics.swap_s.observe
        )
        self.uploads = Uploads(settings.home / "uploads", base.rules.max_bytes)
        self.maintenance = MaintenanceLoop(self.lifecycle, lambda: self.state is State.READY)
        self.ledger = Ledger(registry.usage, self._block_seconds)
        self.canaries = CanaryRollback(
            registry, self.lifecycle, limits_of(settings), rating_limits_of(settings)
        )
        self.live = SchedulerStats(self.scheduler_report)
        self._answers, self.failures = RecentAnswers(), RecentFailures()
        self.feedback = FeedbackService(
            self._answers,
            registry.feedback,
            (self.metrics, self.canaries),
            keeps_messages=settings.keep_feedback_messages,
        )
        self.requests_in_flight = 0
        self.scrapes = MetricsEndpoint(
            self.auth,
            protected=settings.protect_metrics,
            metrics=self.metrics,
            census=StateCollector(self, store),
        )
        self.tracing = Tracing(settings.otlp_traces_endpoint, otlp_protocol())
        self.leaving = False  # /ready says no, work is still taken
        self.ending = asyncio.Event()  # what still runs is cut off

    # --- who calls, and may anything come in -------------------------------------------------------------

    async def identify(self, headers: Headers) -> Caller:
        """Who calls; raises Unauthenticated."""
        return await self.auth.authenticate(headers)

    async def enter(self, headers: Headers) -> Caller:
        """Who calls, when the server takes work. Raises: Unauthenticated, EngineUnavailable, Draining."""
        caller = await self.auth.authenticate(headers)
        if self.supervisor.state in (State.DRAINING, State.STOPPED):
            raise Draining(retry_after_s=1)
        if self.supervisor.state is not State.READY:
            raise EngineUnavailable(f"The engine is {self.supervisor.state}; try again shortly.")
        return caller

    # --- a generating request ----------------------------------------------------------------------------

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: dict[str, Any], headers: Headers, request_id: str
    ) -> tuple[RequestContext, Resolved]:
        """Route the request and fill its decoding options in.

        Raises:
            InvalidRequest, ModelNotFound, SamplingError
        """
        target = await self.router.resolve(caller, body.get("model"), sticky=sticky_part(body, headers))
        resolved = self.decoding.resolve(
            body,
            endpoint,
            adapter=target.defaults,
            tenant=caller.defaults,
            limits=caller.limits,
            preset_header=headers.get("x-loragate-preset"),
        )
        context = RequestContext(
            request_id=request_id,
            caller=caller,
            target=target,
            policy=caller.tenant.settings if caller.tenant else OPERATOR_SETTINGS,
            cache_salt=self._salt(caller.tenant_name),
            held=None,
            max_tokens_named="max_tokens" in resolved.origins,
            unplaced=resolved.unplaced,
            limits=self.decoding.limits_for(caller.limits),
            repetition=resolved.repetition,
            debug=headers.get("x-loragate-debug") == "1",
        )
        return context, resolved

    @contextlib.asynccontextmanager
    async def serve(
        self, endpoint: Endpoint, context: RequestContext, resolved: Resolved, headers: Headers
    ) -> AsyncIterator[Answer]:
        """Hold the adapter and a place in the gate while the answer is being sent."""
        self.requests_in_flight += 1
        try:
            with self.ledger.watch(context):
                async with (
                    self._hold(context.target.version) as held,
                    self._gate.admit(replace(context, held=held)) as held_context,
                ):
                    context.usage.held_at = time.monotonic()
                    engine = self.supervisor.engine
                    if engine is None:
                        raise EngineUnavailable
                    yield await engine.handlers.handle(endpoint, resolved.body, held_context, headers)
        finally:
            self.requests_in_flight -= 1

    def rate_headers(self, context: RequestContext) -> dict[str, str]:
        """`x-ratelimit-*` as they stand now."""
        return self._admission.headers(context.caller.tenant_name, context.policy)

    def observe(self, endpoint: Endpoint, context: RequestContext, status: int) -> None:
        """Count a finished request."""
        self.metrics.observe(endpoint.value, context, status)
        self.canaries.note(context, status)

    def refuse(self, tenant: str, reason: str) -> None:
        """Count a request that was refused."""
        self.metrics.refuse(tenant, reason)

    def remember(self, record: Mapping[str, Any], context: RequestContext | None) -> None:
        """Keep what may be asked about a finished request: which version answered, or that it failed."""
        self.failures.note(record)
        if context is not None and context.usage.generated_tokens:
            self._answers.note(context.caller.tenant_name, context.request_id, context.target.version)

    @contextlib.asynccontextmanager
    async def _hold(self, version: Version | None) -> AsyncIterator[EngineAdapter | None]:
        """Keep what the request needs. Raises: ResidencyBusy, VersionRetired, EngineGone, AdapterUnavailable."""
        async with contextlib.AsyncExitStack() as stack:
            held = None
            if version is not None:
                try:
                    held = await stack.enter_async_context(self.lifecycle.hold(version))
                except EngineGone:
                    raise
                except (LoadFailed, StoreDamaged) as error:  # told to who manages it, not to who calls it
                    name = f"{version.public_name}@{version.number}"
                    logger.error("%s cannot be loaded: %s", name, error)
                    raise AdapterUnavailable(name) from error
            yield held

    def _salt(self, tenant: str) -> str:
        """A tenant's prefix-cache salt: no other tenant's prompt can hit what this one cached."""
        return hmac.new(self._salt_key, tenant.encode(), sha256).hexdigest()

    # --- health ------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the server stands."""
        return self.supervisor.state

    @property
    def engine_alive(self) -> bool:
        """Whether an engine is there, serves and has not died."""
        engine = self.supervisor.engine
        return engine is not None and not engine.errored and self.state in (State.READY, State.DRAINING)

    async def registry_answers(self) -> bool:
        """Whether the database can be read."""
        try:
            await self.registry.ping()
        except RegistryUnavailable:
            return False
        return True

    @property
    def welcome(self) -> bool:
        """Whether new requests are wanted."""
        return self.state is State.READY and self.engine_alive and not self.leaving

    # --- the engine comes and goes -----------------------------------------------------------------------

    async def restore_budgets(self) -> None:
        """Charge what the ledger knows to the budgets of the running day and month."""
        await self.ledger.restore(await self.registry.tenants.list(), self._admission)

    @property
    def capacity(self) -> Capacity:
        """What the running engine has to share out."""
        return self._admission.capacity

    async def scheduler_report(self) -> Report | None:
        """What the scheduler counts (`server.engine.scheduling.scheduler_report`); None while there is no engine."""
        engine = self.supervisor.engine
        if engine is None or self.state not in (State.READY, State.DRAINING):
            return None
        try:
            return await engine.scheduler_report()
        except EngineGone:
            return None

    async def _block_seconds(self) -> dict[str, float] | None:
        return block_seconds(await self.scheduler_report())

    async def _start_engine(self, runner: Executor) -> Engine:
        self._memory.begin()
        return await start(self.settings, self._gate, runner)

    async def _engine_started(self, engine: Engine) -> None:
        self.ledger.start_over()
        self._admission.capacity = Capacity(
            kv_blocks=max(1, engine.kv_blocks - 1),  # vLLM keeps one null block
            block_size_tokens=engine.block_size_tokens,
            max_num_seqs=self.settings.max_num_seqs,
        )
        if self.supervisor.restarts:
            await self.residency.reset()
        else:
            for error in await self.lifecycle.restore_pins():
                logger.error("a pinned adapter could not be loaded: %s", error)
        if self.settings.demo:
            await demo_seed.add_adapters(self.registry, self.lifecycle)
