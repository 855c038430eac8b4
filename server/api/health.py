"""/health, /ready, /version and /metrics, for probes and scrapers."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.auth.authenticator import Authenticator
from server.config.versions import vllm_version
from server.engine.supervisor import State
from server.observability.readiness import Readiness
from server.observability.recorder import MetricsRecorder
from server.observability.state_collector import StateCollector


class Status(BaseModel):
    """The state of the server."""

    status: State


class Versions(BaseModel):
    """The versions that run."""

    loragate: str
    vllm: str


def router(
    readiness: Readiness,
    recorder: MetricsRecorder,
    state: StateCollector,
    metrics_readers: Authenticator | None,
) -> APIRouter:
    """/health, /ready, /version and /metrics; `metrics_readers` admits operators only, None everybody."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", response_model=Status, responses={503: {"model": Status}})
    async def health() -> JSONResponse:
        """200 while process and engine are alive; 503 while the engine starts, restarts or is dead."""
        return JSONResponse({"status": readiness.state}, status_code=200 if readiness.engine_alive else 503)

    @routes.get("/ready", response_model=Status, responses={503: {"model": Status}})
    async def ready() -> JSONResponse:
        """200 while new requests are accepted: engine ready, registry reachable, not draining."""
        accepts = readiness.accepts_requests and await readiness.registry_answers()
        return JSONResponse({"status": readiness.state}, status_code=200 if accepts else 503)

    @routes.get("/version", response_model=Versions)
    async def versions() -> JSONResponse:
        """Versions of loragate and of vLLM."""
        return JSONResponse({"loragate": version("loragate"), "vllm": vllm_version()})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus text."""
        if metrics_readers is not None:
            await metrics_readers.operator(request.headers)
        recorder.update(await state.collect())
        text = await asyncio.to_thread(recorder.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
