"""The composition root: the only place where the server's objects are created, joined and closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from importlib.metadata import version

from fastapi import FastAPI
from starlette.routing import Route

from adapters.registry import Registry, check_schema, connect, migrate
from adapters.registry.schema.migration import current_revision
from adapters.sources import Uploads
from adapters.store.store import Store
from sampling.endpoints import Endpoint
from server.api import admin, console, errors, feedback, health, models, openapi, vllm_lora
from server.api.admin.permissions import AdminServices, Permissions
from server.api.auth_throttle import AuthThrottleMiddleware
from server.api.generate import GenerateRoute
from server.api.middleware import RequestMiddleware
from server.api.request_observer import RequestObserver
from server.app import demo_seed
from server.app.engine_lifecycle import EngineLifecycle
from server.auth.authenticator import Authenticator
from server.auth.throttle import AuthThrottle
from server.background.canary_rollback import CanaryRollback, limits_of, rating_limits_of
from server.background.maintenance import MaintenanceLoop
from server.config.environment import otlp_protocol
from server.config.settings import Settings
from server.engine.base_model import BaseModel, read_base_model
from server.engine.supervisor import State
from server.observability.query_timing import time_queries
from server.observability.readiness import Readiness
from server.observability.recorder import MetricsRecorder
from server.observability.state_collector import StateCollector
from server.observability.tracing import Tracing
from server.request.routing import Router
from server.request.sampling import SamplingResolver
from server.request.service import RequestService
from server.usage.feedback import FeedbackService
from server.usage.ledger import Ledger
from server.usage.recent_requests import RecentAnswers, RecentFailures


class Server:
    """The parts of one running server, each created with those that it uses."""

    def __init__(
        self, settings: Settings, registry: Registry, store: Store, base: BaseModel, runner: Executor
    ) -> None:
        self.settings, self.registry, self.store, self.base = settings, registry, store, base
        self.uploads = Uploads(settings.home / "uploads", base.rules.max_bytes)
        self.metrics = MetricsRecorder(settings.metrics_label_sets)
        self.tracing = Tracing(settings.otlp_traces_endpoint, otlp_protocol())
        self.engine = engine = EngineLifecycle(settings, registry, store, base, self.metrics, runner)
        self.readiness = Readiness(engine.supervisor, registry)
        self.authenticator = Authenticator(registry)
        self.throttle = AuthThrottle()
        self.ledger = Ledger(registry.usage, engine.scheduler_stats)
        self.router = Router(registry, base_model_name=settings.base_model_name)
        self.sampling = SamplingResolver.from_settings(settings, base.generation_config)
        self.requests = RequestService(
            self.router,
            self.sampling,
            engine.admission,
            engine.gate,
            engine.adapters.hold,
            self.ledger.track,
            engine.handle,
        )
        self.canaries = CanaryRollback(
            registry, engine.adapters, limits_of(settings), rating_limits_of(settings)
        )
        self.failures, answers = RecentFailures(), RecentAnswers()
        self.observer = RequestObserver(self.metrics, self.canaries, answers, self.failures)
        self.feedback = FeedbackService(
            answers,
            registry.feedback.put,
            (self.metrics.requests.rated, self.canaries.rated),
            keeps_messages=settings.keep_feedback_messages,
        )


@contextlib.asynccontextmanager
async def open_server(settings: Settings, runner: Executor) -> AsyncIterator[Server]:
    """Open the database and the store, and compose the server; the engine is not started yet.

    Args:
        settings: what to serve.
        runner: the one thread that starts engines (see `server.engine.process.parent_death`).

    Raises:
        SchemaMismatch: the database was made by another version.
    """
    database = connect(settings.registry_url)
    try:
        if await current_revision(database) is None:
            await migrate(settings.registry_url)  # a new database: there is nothing to back up
        await check_schema(database)
        registry = Registry(database, reserved_names={settings.base_model_name})
        if settings.demo:
            await demo_seed.add_tenants(registry)
        store = Store(settings.home / "adapters")
        base = await asyncio.to_thread(read_base_model, settings)
        server = Server(settings, registry, store, base, runner)
        time_queries(database, server.metrics.query_s)
        async with _background(server):
            yield server
    finally:
        await database.dispose()


@contextlib.asynccontextmanager
async def _background(server: Server) -> AsyncIterator[None]:
    """Recover, run the background tasks, and end everything in order."""
    adapters, readiness = server.engine.adapters, server.readiness
    maintenance = MaintenanceLoop(adapters, lambda: readiness.state is State.READY)
    await maintenance.recover()
    await server.ledger.restore(await server.registry.tenants.list(), server.engine.admission)
    maintaining = asyncio.create_task(maintenance.run(), name="maintenance")
    flushing = asyncio.create_task(server.ledger.run(), name="ledger")
    judging = asyncio.create_task(server.canaries.run(), name="canaries")
    try:
        yield
    finally:
        for task in (maintaining, judging, flushing):
            task.cancel()
        await adapters.aclose()
        await asyncio.wait([flushing])
        await server.ledger.flush()
        await server.engine.supervisor.stop()
        await asyncio.to_thread(server.tracing.close)


def make_app(server: Server) -> FastAPI:
    """The ASGI application: only the routes listed here, and none of vLLM's own."""
    app = FastAPI(title="loragate", version=version("loragate"), docs_url=None, redoc_url=None)
    authenticator, permissions = server.authenticator, Permissions(server.authenticator)
    for endpoint in Endpoint:
        route = GenerateRoute(
            endpoint,
            authenticator,
            server.readiness,
            server.requests,
            server.observer,
            server.tracing,
            server.settings.log_prompts,
        )
        app.router.routes.append(Route(endpoint.path, route, methods=["POST"]))
    catalog = models.ModelCatalog(server.router, server.engine.max_model_len)
    app.include_router(models.router(catalog, server.sampling.presets, authenticator))
    app.include_router(
        models.token_router(server.router, authenticator, server.readiness, server.engine.handlers)
    )
    metrics_readers = authenticator if server.settings.protect_metrics else None
    app.include_router(
        health.router(server.readiness, server.metrics, _state_collector(server), metrics_readers)
    )
    services = _admin_services(server)
    app.include_router(admin.router(services, permissions))
    app.include_router(vllm_lora.router(services, permissions))
    app.include_router(feedback.router(server.feedback, authenticator))
    app.include_router(console.router())
    errors.install(app, authenticator.authenticate)
    openapi.install(app)
    app.add_middleware(AuthThrottleMiddleware, throttle=server.throttle)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=server.settings.max_body_bytes,
        read_timeout_s=server.settings.read_timeout_s,
    )
    return app


def _state_collector(server: Server) -> StateCollector:
    engine, settings = server.engine, server.settings
    return StateCollector(
        server.registry,
        server.store,
        engine.residency,
        engine.scheduler_stats,
        server.readiness,
        server.requests,
        server.throttle,
        server.canaries,
        settings.max_loras,
        settings.metrics_label_sets,
    )


def _admin_services(server: Server) -> AdminServices:
    return AdminServices(
        settings=server.settings,
        registry=server.registry,
        lifecycle=server.engine.adapters,
        residency=server.engine.residency,
        base=server.base,
        sampling=server.sampling,
        uploads=server.uploads,
        admission=server.engine.admission,
        readiness=server.readiness,
        scheduler_stats=server.engine.scheduler_stats,
        failures=server.failures,
    )
