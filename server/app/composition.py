"""The composition root: where the server's objects are created, joined and closed; `routes` puts them behind HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.replicas.shared_secrets import CACHE_SALT
from adapters.store.store import Store
from sampling.limits import NO_LIMITS
from server.api.request_observer import RequestObserver
from server.app import background_work, demo_seed, garbage_collection
from server.app.database import open_database, registry_of
from server.app.engine_lifecycle import EngineLifecycle
from server.app.stores import recent, recorder_of, uploads_of
from server.auth import shared_throttle
from server.auth.authenticator import Authenticator
from server.auth.shared_throttle import SharedThrottle
from server.auth.throttle import AuthThrottle
from server.background import alerts, webhook_sender
from server.background.canary_rollback import CanaryRollback, limits_of
from server.background.evaluations.service import RESUME_INTERVAL_S, EvaluationService
from server.background.maintenance import MaintenanceLoop
from server.background.membership import DEPOT_GARBAGE_INTERVAL_S, MembershipLoop
from server.background.shadows import texts
from server.background.shadows.traffic import FLUSH_INTERVAL_S, ShadowTraffic
from server.background.webhook_sender import WebhookSender
from server.cluster.peers import Peers
from server.config.combinations import alert_percents, networks_of
from server.config.environment import otlp_protocol
from server.config.settings import Settings
from server.engine.base_model import BaseModel, read_base_model
from server.engine.supervisor import State
from server.observability import loop_lag
from server.observability.history import History
from server.observability.query_timing import time_queries
from server.observability.readiness import Readiness
from server.observability.recorder import MetricsRecorder
from server.observability.tracing import Tracing
from server.request.body_memory import BodyMemory
from server.request.request_service import RequestService
from server.request.routing import Router
from server.request.sampling import SamplingResolver
from server.usage import shared_failures
from server.usage.budgets import restore_budgets
from server.usage.current_prices import CurrentPrices
from server.usage.feedback import FeedbackService
from server.usage.ledger import Ledger
from server.usage.records import record_writer
from server.usage.request_log import RequestLog
from server.usage.spool import UsageSpool
from server.usage.writer import UsageWriter

#: Bodies of the largest size that one tenant may have in memory at the same time.
_LARGE_BODIES = 16


class Server:
    """The parts of one running server, each created with those that it uses."""

    def __init__(
        self, settings: Settings, registry: Registry, store: Store, base: BaseModel, runner: Executor
    ) -> None:
        self.settings, self.registry, self.store, self.base = settings, registry, store, base
        self.metrics = MetricsRecorder(settings.metrics_label_sets)
        self.tracing = Tracing(settings.otlp_traces_endpoint, otlp_protocol())
        self.engine = engine = EngineLifecycle(settings, registry, store, base, self.metrics, runner)
        self.uploads = uploads_of(settings, registry, engine.depot, base.rules.max_bytes)
        self.readiness = Readiness(engine.supervisor, registry)
        self.peers = Peers(registry.membership, registry.secrets, settings.tls_cert)
        self.authenticator, self.throttle = Authenticator(registry, settings), AuthThrottle()
        self.usage_writer = UsageWriter(registry.usage, UsageSpool(settings.home / "usage"))
        self.ledger = Ledger(self.usage_writer, engine.scheduler_stats)
        self.webhook_sender = WebhookSender(registry.webhooks, networks_of(settings))
        self.router = Router(registry, base_model_name=settings.base_model_name)
        self.sampling = SamplingResolver.from_settings(settings, base.generation_config)
        self.requests = RequestService(
            self.router,
            self.sampling,
            engine.admission,
            engine.gate,
            engine.adapters.loading.hold,
            self.ledger.track,
            engine.handle,
            engine.prompts,
            engine.adapters.request_blends.hold,
            engine.leases.admitted,
            CurrentPrices(registry).of,
            BodyMemory(_LARGE_BODIES * settings.max_body_bytes),
        )
        self.evaluations, self.shadows = self._background_work()
        self.canaries = CanaryRollback(registry, engine.adapters, limits_of(settings))
        self.failures, self.answers = recent(registry)
        self.observer, self.records = self._observer(), recorder_of(settings)
        self.feedback = FeedbackService(
            self.answers,
            registry.feedback.put,
            (self.metrics.requests.rated, self.canaries.rated),
            keeps_messages=settings.keep_feedback_messages,
        )

    def _observer(self) -> RequestObserver:
        """What looks at each finished request."""
        return RequestObserver(
            self.metrics, self.canaries, self.answers, self.failures, History(), RequestLog()
        )

    def _background_work(self) -> tuple[EvaluationService, ShadowTraffic]:
        limits = self.sampling.limits_for(NO_LIMITS)
        return background_work.create(
            self.settings, self.registry, self.base, self.engine, self.requests, limits
        )


@contextlib.asynccontextmanager
async def open_server(settings: Settings, runner: Executor) -> AsyncIterator[Server]:
    """Open the database and the store, and compose the server; the engine is not started yet.

    `runner` is the one thread that starts engines (see `server.engine.process.parent_death`).
    Raises: as `open_database`.
    """
    async with open_database(settings) as database:
        registry = registry_of(database, settings)
        if settings.demo:
            await demo_seed.add_tenants(registry)
        store = Store(settings.home / "adapters")
        base = await asyncio.to_thread(read_base_model, settings)
        server = Server(settings, registry, store, base, runner)
        server.requests.salt_key = await registry.secrets.get(CACHE_SALT)
        time_queries(database, server.metrics.query_s)
        async with _background(server):
            yield server


def _repeated(
    server: Server, wrong_keys: SharedThrottle
) -> list[tuple[Callable[[], Awaitable[None]], float]]:
    """What is repeated beside the membership's own work, with the intervals in seconds."""
    settings, registry = server.settings, server.registry
    budgets = alerts.BudgetAlerts(registry, alert_percents(settings), settings.currency)
    return [
        (budgets.check, alerts.BUDGET_INTERVAL_S),
        (alerts.EngineAlerts(registry, server.engine.supervisor).look, alerts.ENGINE_INTERVAL_S),
        (server.webhook_sender.send_due, webhook_sender.SEND_INTERVAL_S),
        (registry.webhooks.forget, webhook_sender.FORGET_INTERVAL_S),
        (server.uploads.collect_garbage, DEPOT_GARBAGE_INTERVAL_S),
        (wrong_keys.report, shared_throttle.REPORT_INTERVAL_S),
        (server.failures.flush, shared_failures.FLUSH_INTERVAL_S),
        (server.evaluations.resume, RESUME_INTERVAL_S),
        (server.evaluations.end_lost, RESUME_INTERVAL_S),
        (server.shadows.flush, FLUSH_INTERVAL_S),
        (registry.shadow_texts.forget, texts.FORGET_INTERVAL_S),
        (server.records.flush, record_writer.FLUSH_INTERVAL_S),
        (server.records.publish, record_writer.PUBLISH_INTERVAL_S),
    ]


async def _recover(server: Server) -> None:
    """Go on with what an earlier process has left: its usage, the budgets, its evaluations."""
    await server.usage_writer.recover()
    await server.registry.usage.forget_writers()
    await restore_budgets(server.registry, server.engine.admission, utc_now())
    await server.evaluations.resume()


def _loops(
    server: Server, maintenance: MaintenanceLoop, members: MembershipLoop
) -> dict[str, Coroutine[Any, Any, None]]:
    """What runs until the server ends, by its task's name."""
    return {
        "registry": server.registry.availability.run(),
        "maintenance": maintenance.run(),
        "membership": members.run(),
        "canaries": server.canaries.run(),
        "loop-lag": loop_lag.watch(server.metrics.loop_lag_s.observe),
        "history": server.observer.history.run(server.engine.scheduler_stats),
        "garbage-collection": garbage_collection.run_collections(lambda: not server.requests.in_flight),
    }


@contextlib.asynccontextmanager
async def _background(server: Server) -> AsyncIterator[None]:
    """Recover, run the background tasks, and end everything in order."""
    adapters, readiness = server.engine.adapters, server.readiness
    maintenance = MaintenanceLoop(adapters, lambda: readiness.state is State.READY)
    wrong_keys = SharedThrottle(server.throttle, server.registry.wrong_keys)
    members = MembershipLoop(
        server.registry,
        adapters,
        server.engine.leases,
        server.answers,
        lambda: readiness.state is State.READY,
        _repeated(server, wrong_keys),
    )
    await members.join()
    await maintenance.recover()
    await wrong_keys.restore()
    await _recover(server)
    flushing = asyncio.create_task(server.ledger.run(), name="ledger")
    loops = _loops(server, maintenance, members)
    tasks = [flushing, *(asyncio.create_task(work, name=name) for name, work in loops.items())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await server.evaluations.aclose()
        await server.shadows.aclose()
        await server.records.aclose()
        await asyncio.gather(server.webhook_sender.aclose(), adapters.aclose())
        await members.leave()
        await asyncio.wait([flushing])
        await server.ledger.flush()
        await server.usage_writer.aclose()
        await server.engine.supervisor.stop()
        await asyncio.to_thread(server.tracing.close)
