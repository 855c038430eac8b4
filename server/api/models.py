"""/v1/models and /v1/presets: what a key may call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from sampling.presets import Presets
from server.auth.authenticator import Authenticator
from server.request.context import Caller
from server.request.routing import Router

_STARTED_AT = time.time()


class ModelCard(BaseModel):
    """A model that the key may call; `parent` is the base model of an adapter, `root` its own name.

    In vLLM `root` is the folder, which is nobody's to know here.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    root: str
    max_model_len: int | None


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class PresetList(BaseModel):
    """Name → decoding options."""

    object: Literal["list"]
    data: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelCatalog:
    """Model cards, as one caller may see them."""

    router: Router
    max_model_len: Callable[[], int | None]
    """The longest prompt plus answer, in tokens."""

    async def list(self, caller: Caller) -> list[dict[str, Any]]:
        """The cards of all models that the caller may call."""
        cards = [self._card(self.router.base_model_name, None, None)] if self.router.sees_base(caller) else []
        visible = await self.router.visible(caller)
        return cards + [
            self._card(name, created_at, self.router.base_model_name) for name, created_at in visible
        ]

    async def get(self, caller: Caller, name: str) -> dict[str, Any]:
        """One model card. Raises: ModelNotFound."""
        target = await self.router.resolve(caller, name)
        if target.version is None:
            return self._card(name, None, None)
        return self._card(name, target.version.created_at.timestamp(), self.router.base_model_name)

    def _card(self, name: str, created_at: float | None, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": int(created_at or _STARTED_AT),
            "owned_by": "loragate",
            "parent": parent,
            "root": name,
            "max_model_len": self.max_model_len(),
        }


def router(catalog: ModelCatalog, presets: Presets, authenticator: Authenticator) -> APIRouter:
    """/v1/models and /v1/presets. They answer without an engine too."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models", response_model=ModelList)
    async def list_models(request: Request) -> JSONResponse:
        """The base model and the caller's adapters."""
        caller = await authenticator.authenticate(request.headers)
        return JSONResponse({"object": "list", "data": await catalog.list(caller)})

    @routes.get("/v1/models/{name:path}", response_model=ModelCard)
    async def get_model(name: str, request: Request) -> JSONResponse:
        """One model."""
        caller = await authenticator.authenticate(request.headers)
        return JSONResponse(await catalog.get(caller, name))

    @routes.get("/v1/presets", response_model=PresetList)
    async def list_presets(request: Request) -> JSONResponse:
        """The sampling presets that a request may name."""
        await authenticator.authenticate(request.headers)
        return JSONResponse({"object": "list", "data": presets.listed()})

    return routes
