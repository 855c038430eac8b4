"""/v1/models, /tokenize and /detokenize: what a key may call, and the base's tokenizer."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from sampling.presets import Presets
from server.api.generate import read_json
from server.request.context import Caller


class ModelCard(BaseModel):
    """A model that the key may call; `parent` is the base model of an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int | None


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class PresetList(BaseModel):
    """Name → decoding options."""

    object: Literal["list"]
    data: dict[str, dict[str, Any]]


class Tokens(BaseModel):
    """vLLM's answer to /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(BaseModel):
    """vLLM's answer to /detokenize."""

    prompt: str


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

    @routes.get("/v1/models", response_model=ModelList)
    async def list_models(request: Request) -> JSONResponse:
        """The base model and the caller's adapters."""
        caller = await service.identify(request.headers)
        return JSONResponse({"object": "list", "data": await service.models(caller)})

    @routes.get("/v1/models/{name:path}", response_model=ModelCard)
    async def get_model(name: str, request: Request) -> JSONResponse:
        """One model."""
        caller = await service.identify(request.headers)
        return JSONResponse(await service.model(caller, name))

    @routes.get("/v1/presets", response_model=PresetList)
    async def list_presets(request: Request) -> JSONResponse:
        """The decoding presets that a request may name."""
        await service.identify(request.headers)
        return JSONResponse({"object": "list", "data": service.presets.listed()})

    @routes.post("/tokenize", response_model=Tokens)
    async def tokenize(request: Request) -> JSONResponse:
        """Token ids of a `prompt` or of `messages`."""
        caller = await service.enter(request.headers)
        return JSONResponse(await service.tokenize(caller, await read_json(request), _request_id(request)))

    @routes.post("/detokenize", response_model=Text)
    async def detokenize(request: Request) -> JSONResponse:
        """The text of `tokens`."""
        caller = await service.enter(request.headers)
        return JSONResponse(await service.detokenize(caller, await read_json(request), _request_id(request)))

    return routes


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])
