"""/health, /ready, /version and /metrics, for probes and scrapers."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.api.errors import error_body
from server.auth.authenticator import Authenticator
from server.config.versions import vllm_version
from server.engine.supervisor import State
from server.observability.readiness import Readiness
from server.observability.recorder import MetricsRecorder
from server.observability.state_collector import StateCollector


class ErrorView(BaseModel):
    """An error, as in every response."""

    message: str
    type: str
    param: str | None
    code: str


class Status(BaseModel):
    """The state of the server; `warning` is there while the registry's database does not answer."""

    status: State
    warning: str | None = None


class Health(Status):
    """The state of the server, and the error while a stalled engine is restarted."""

    error: ErrorView | None = None


class Versions(BaseModel):
    """The versions that run; vLLM's server has its own under `version`, and clients of it look there."""

    version: str
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

    @routes.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> JSONResponse:
        """200 while process and engine are alive; 503 while the engine starts, restarts, is dead or has stalled."""
        return _answer(
            readiness, readiness.engine_alive, error_body(readiness.stall) if readiness.stall else {}
        )

    @routes.get("/ready", response_model=Status, responses={503: {"model": Status}})
    async def ready() -> JSONResponse:
        """200 while new requests are accepted; `warning` says how long keys are served without the database."""
        accepts = await readiness.registry_serves() and readiness.accepts_requests
        warning = readiness.registry_warning
        return _answer(readiness, accepts, {"warning": warning} if warning else {})

    @routes.get("/version", response_model=Versions)
    async def versions() -> JSONResponse:
        """Versions of loragate and of vLLM."""
        engine = vllm_version()
        return JSONResponse({"version": engine, "loragate": version("loragate"), "vllm": engine})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus text."""
        if metrics_readers is not None:
            await metrics_readers.operator(request.headers)
        recorder.update(await state.collect())
        text = await asyncio.to_thread(recorder.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _answer(readiness: Readiness, is_well: bool, more: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"status": readiness.state} | more, status_code=200 if is_well else 503)
