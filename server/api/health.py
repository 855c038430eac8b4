"""What probes and scrapers ask."""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.config.versions import vllm_version
from server.engine.supervisor import State
from server.observability.metrics_endpoint import MetricsEndpoint


class Status(BaseModel):
    """The state of the server."""

    status: State


class Versions(BaseModel):
    """The versions that run."""

    loragate: str
    vllm: str


class Service(Protocol):
    """What these routes need of the composed server."""

    scrapes: MetricsEndpoint

    @property
    def state(self) -> State:
        """Where the server stands."""

    @property
    def engine_alive(self) -> bool:
        """Whether an engine is there and has not died."""

    @property
    def welcome(self) -> bool:
        """Whether new requests are wanted."""

    async def registry_answers(self) -> bool:
        """Whether the database can be read."""


def router(service: Service) -> APIRouter:
    """/health, /ready, /version and /metrics."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", response_model=Status, responses={503: {"model": Status}})
    async def health() -> JSONResponse:
        """200 while process and engine are alive; 503 while the engine starts, restarts or is dead."""
        alive = service.engine_alive
        return JSONResponse({"status": service.state}, status_code=200 if alive else 503)

    @routes.get("/ready", response_model=Status, responses={503: {"model": Status}})
    async def ready() -> JSONResponse:
        """200 while new requests are welcome: engine warm, registry reachable, not draining."""
        welcome = service.welcome and await service.registry_answers()
        return JSONResponse({"status": service.state}, status_code=200 if welcome else 503)

    @routes.get("/version", response_model=Versions)
    async def versions() -> JSONResponse:
        """Versions of loragate and of vLLM."""
        return JSONResponse({"loragate": version("loragate"), "vllm": vllm_version()})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus text."""
        return Response(
            await service.scrapes.text(request.headers), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return routes
