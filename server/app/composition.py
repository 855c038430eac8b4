"""The composition root: where the server's objects are opened, joined and closed again."""

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
from adapters.store.store import Store
from sampling.endpoints import Endpoint
from server.api import admin, console, errors, feedback, health, models, openapi, vllm_lora
from server.api.auth_throttle import AuthThrottleMiddleware
from server.api.generate import GenerateRoute
from server.api.middleware import RequestMiddleware
from server.app import demo_seed
from server.app.model_catalog import Catalog
from server.app.server import Server
from server.config.settings import Settings
from server.engine.base_model import read_base_model
from server.observability.instrumented import time_queries


@contextlib.asynccontextmanager
async def open_server(settings: Settings, runner: Executor) -> AsyncIterator[Server]:
    """Open database and store, and make the server over them; the engine is not started yet.

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
        server = Server(settings, registry, store, await read_base_model(settings), runner)
        time_queries(database, server.metrics.query_s)
        await server.maintenance.recover()
        await server.restore_budgets()
        house = asyncio.create_task(server.maintenance.keep(), name="house")
        writing = asyncio.create_task(server.ledger.run(), name="ledger")
        judging = asyncio.create_task(server.canaries.run(), name="canaries")
        try:
            yield server
        finally:
            house.cancel()
            judging.cancel()
            writing.cancel()
            await server.lifecycle.aclose()
            await asyncio.wait([writing])
            await server.ledger.flush()
            await server.supervisor.stop()
            await asyncio.to_thread(server.tracing.close)
    finally:
        await database.dispose()


def make_app(server: Server) -> FastAPI:
    """The ASGI application: the allow-list of routes, and nothing of vLLM's own."""
    app = FastAPI(title="loragate", version=version("loragate"), docs_url=None, redoc_url=None)
    for endpoint in Endpoint:
        app.router.routes.append(Route(endpoint.path, GenerateRoute(server, endpoint), methods=["POST"]))
    app.include_router(models.router(Catalog(server)))
    app.include_router(health.router(server))
    app.include_router(admin.router(server))
    app.include_router(vllm_lora.router(server))
    app.include_router(feedback.router(server))
    app.include_router(console.router())
    errors.install(app, server.identify)
    openapi.install(app)
    app.add_middleware(AuthThrottleMiddleware, attempts=server.attempts)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=server.settings.max_body_bytes,
        read_timeout_s=server.settings.read_timeout_s,
    )
    return app
