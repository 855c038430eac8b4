"""/v1/models, /tokenize and /detokenize: what a key may call, and the base's tokenizer."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from sampling.presets import Presets
from server.api.generate import read_json
from server.request.context import Caller


class Service(Protocol):
    """What these routes need of the composed server."""

    @property
    def presets(self) -> Presets:
        """The decoding presets of this server."""

    async def enter(self, headers: Headers) -> Caller:
        """Who calls; raises when the server takes no work or the key is wrong."""

    async def identify(self, headers: Headers) -> Caller:
        """Who calls; works while the engine is down too."""

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """The model cards that the caller may see."""

    async def model(self, caller: Caller, name: str) -> dict[str, Any]:
        """One of them. Raises: ModelNotFound."""

    async def tokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Token ids. Raises: ModelNotFound, InvalidRequest."""

    async def detokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Text. Raises: ModelNotFound, InvalidRequest."""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models")
    async def list_models(request: Request) -> JSONResponse:
        """The base model and the caller's adapters."""
        caller = await service.identify(request.headers)
        return JSONResponse({"object": "list", "data": await service.models(caller)})

    @routes.get("/v1/models/{name:path}")
    async def get_model(name: str, request: Request) -> JSONResponse:
        """One model."""
        caller = await service.identify(request.headers)
        return JSONResponse(await service.model(caller, name))

    @routes.get("/v1/presets")
    async def list_presets(request: Request) -> JSONResponse:
        """The decoding presets that a request may name."""
        await service.identify(request.headers)
        return JSONResponse({"object": "list", "data": service.presets.listed()})

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> JSONResponse:
        """Token ids of a `prompt` or of `messages`."""
        caller = await service.enter(request.headers)
        return JSONResponse(await service.tokenize(caller, await read_json(request), _request_id(request)))

    @routes.post("/detokenize")
    async def detokenize(request: Request) -> JSONResponse:
        """The text of `tokens`."""
        caller = await service.enter(request.headers)
        return JSONResponse(await service.detokenize(caller, await read_json(request), _request_id(request)))

    return routes


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])
