"""The models that a key may call, and the base's tokenizer: what /v1/models and /tokenize ask."""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import Headers

from sampling.presets import Presets
from server.app.server import Server
from server.engine.handlers import VllmHandlers
from server.errors import EngineUnavailable
from server.request.context import Caller

_STARTED_AT = time.time()


class Catalog:
    """Model cards and tokens, as one caller may see them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._router = server.router
        self._base = server.settings.base_model_name

    @property
    def presets(self) -> Presets:
        """The decoding presets of this server."""
        return self._server.presets

    async def enter(self, headers: Headers) -> Caller:
        """Who calls, when the server takes work."""
        return await self._server.enter(headers)

    async def identify(self, headers: Headers) -> Caller:
        """Who calls; works while the engine is down too."""
        return await self._server.identify(headers)

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """The model cards that the caller may see."""
        cards = [self._card(self._base, None, None)] if self._router.sees_base(caller) else []
        return cards + [
            self._card(name, made, self._base) for name, made in await self._router.visible(caller)
        ]

    async def model(self, caller: Caller, name: str) -> dict[str, Any]:
        """One model card. Raises: ModelNotFound."""
        target = await self._router.resolve(caller, name)
        if target.version is None:
            return self._card(name, None, None)
        return self._card(name, target.version.created_at.timestamp(), self._base)

    async def tokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Token ids. Raises: ModelNotFound, InvalidRequest, EngineUnavailable."""
        return await (await self._handlers_for(caller, body)).tokenize(body, request_id)

    async def detokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Text. Raises: ModelNotFound, InvalidRequest, EngineUnavailable."""
        return await (await self._handlers_for(caller, body)).detokenize(body, request_id)

    async def _handlers_for(self, caller: Caller, body: dict[str, Any]) -> VllmHandlers:
        if body.get("model") is not None:
            await self._router.resolve(caller, body["model"])
        engine = self._server.supervisor.engine
        if engine is None:
            raise EngineUnavailable
        return engine.handlers

    def _card(self, name: str, made_at: float | None, parent: str | None) -> dict[str, Any]:
        engine = self._server.supervisor.engine
        return {
            "id": name,
            "object": "model",
            "created": int(made_at or _STARTED_AT),
            "owned_by": "loragate",
            "parent": parent,
            "max_model_len": engine.max_model_len if engine else self._server.settings.max_model_len,
        }
