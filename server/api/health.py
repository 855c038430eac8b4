"""/health, /ready, /version and /metrics, for probes and scrapers."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.config.versions import vllm_version
from server.observability.metrics_endpoint import MetricsEndpoint
from server.observability.readiness import Readiness


def router(readiness: Readiness, metrics_endpoint: MetricsEndpoint) -> APIRouter:
    """/health, /ready, /version and /metrics."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    async def health() -> JSONResponse:
        """200 while process and engine are alive; 503 while the engine starts, restarts or is dead."""
        return JSONResponse({"status": readiness.state}, status_code=200 if readiness.engine_alive else 503)

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """200 while new requests are accepted: engine ready, registry reachable, not draining."""
        accepts = readiness.accepts_requests and await readiness.registry_answers()
        return JSONResponse({"status": readiness.state}, status_code=200 if accepts else 503)

    @routes.get("/version")
    async def versions() -> JSONResponse:
        """Versions of loragate and of vLLM."""
        return JSONResponse({"loragate": version("loragate"), "vllm": vllm_version()})

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text."""
        return Response(
            await metrics_endpoint.text(request.headers),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    return routes
