"""The ASGI application: only the routes listed here, and none of vLLM's own."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from sampling.endpoints import Endpoint
from server.api import admin, errors, feedback, health, models, openapi, replica, sign_in, tokenization
from server.api.admin import vllm_lora
from server.api.admin.permissions import AdminServices, Permissions
from server.api.console import pages
from server.api.generate import GenerateRoute
from server.api.middleware.auth_throttle import AuthThrottleMiddleware
from server.api.middleware.cors import CorsMiddleware
from server.api.middleware.request_middleware import RequestMiddleware
from server.app.composition import Server
from server.observability.state_collector import StateCollector
from server.request import batch
from server.request.batch import BatchService
from server.request.tokenization import TokenizationService


def make_app(server: Server) -> FastAPI:
    """The ASGI application: only the routes listed here, and none of vLLM's own."""
    app = FastAPI(title="loragate", version=version("loragate"), docs_url=None, redoc_url=None)
    # Taken as they are: `include_router` would make each of them again, which takes half of the time.
    app.router.routes += _routes(server)
    errors.install(app, server.authenticator.authenticate)
    openapi.install(app)
    _add_middleware(app, server)
    return app


def _routes(server: Server) -> list[BaseRoute]:
    authenticator, permissions = server.authenticator, Permissions(server.authenticator)
    batches = BatchService(server.requests)
    generating = [_generating(server, endpoint.path, endpoint) for endpoint in Endpoint]
    generating.append(_generating(server, batch.PATH, Endpoint.CHAT, batches))
    catalog = models.ModelCatalog(server.router, server.engine.max_model_len)
    metrics_readers = authenticator if server.settings.protect_metrics else None
    services = _admin_services(server)
    return [
        *generating,
        *models.router(catalog, server.sampling.presets, authenticator).routes,
        *tokenization.router(
            _tokenization(server), authenticator, server.readiness, server.observer, server.requests.ending
        ).routes,
        *health.router(server.readiness, server.metrics, _state_collector(server), metrics_readers).routes,
        *admin.routes(services, permissions),
        *vllm_lora.router(services, permissions).routes,
        *feedback.router(server.feedback, authenticator).routes,
        *replica.router(_replica_reporter(server), server.settings.replica_token).routes,
        *replica.peer_router(server.peers, server.observer.history, server.observer.log).routes,
        *sign_in.router(server.settings, server.registry, authenticator.sessions).routes,
        *pages.router().routes,
    ]


def _add_middleware(app: FastAPI, server: Server) -> None:
    """Put the middleware around the routes; the last one is the outermost."""
    app.add_middleware(AuthThrottleMiddleware, throttle=server.throttle)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=server.settings.max_body_bytes,
        read_timeout_s=server.settings.read_timeout_s,
    )
    if server.settings.allowed_origins:
        app.add_middleware(CorsMiddleware, origins=server.settings.allowed_origins)


def _generating(server: Server, path: str, endpoint: Endpoint, batches: BatchService | None = None) -> Route:
    route = GenerateRoute(
        endpoint,
        server.authenticator,
        server.readiness,
        server.requests,
        server.observer,
        server.tracing,
        server.settings.log_prompts,
        server.records,
        batches,
    )
    return Route(path, route, methods=["POST"])


def _tokenization(server: Server) -> TokenizationService:
    engine = server.engine
    return TokenizationService(
        server.router,
        server.sampling,
        engine.admission,
        engine.handlers,
        engine.prompts,
        server.requests.memory,
        engine.leases.admitted,
    )


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
        server.usage_writer,
        server.records.counts,
        settings.max_loras,
        settings.metrics_label_sets,
    )


def _replica_reporter(server: Server) -> replica.ReplicaReporter:
    engine = server.engine
    return replica.ReplicaReporter(
        engine.residency,
        server.requests,
        engine.scheduler_stats,
        server.readiness,
        server.settings.base_model_name,
        server.settings.max_loras,
        server.registry.membership.own.id,
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
        evaluations=server.evaluations,
        history=server.observer.history,
        request_log=server.observer.log,
        peers=server.peers,
        reporter=_replica_reporter(server),
    )
