"""Requests of the server's own to one version, which take only what others leave."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import Headers

from adapters.models import Key, Role, Tenant, Version
from adapters.registry.database import utc_now
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.fairness.shares import OPERATOR_SETTINGS, background_name
from server.request.context import Caller, JsonAnswer, RequestContext, Target
from server.request.request_service import RequestService


@dataclass(frozen=True, slots=True)
class BackgroundRequests:
    """Generates on a version for whoever asked for its evaluation, under whose name it is counted.

    `service` is a request service whose handler is `server.engine.decoding.token_generation.generate_tokens`.
    """

    service: RequestService

    async def answer(
        self, asker: Tenant | None, version: Version, prompt: Sequence[int], *, max_tokens: int, end_id: int
    ) -> list[int]:
        """The greedy answer to a prompt, as token ids, through its end. Raises: as `RequestService.serve`."""
        body = {"prompt_token_ids": list(prompt), "max_tokens": max_tokens, "end_id": end_id}
        found: list[int] = (await self._content(asker, version, body))["token_ids"]
        return found

    async def log_likelihood(
        self, asker: Tenant | None, version: Version, prompt: Sequence[int], target: Sequence[int]
    ) -> float:
        """The natural logarithm of the probability of `target` after `prompt`. Raises: as `RequestService.serve`."""
        ids = [*prompt, *target]
        body = {"prompt_token_ids": ids, "logprobs_from": len(prompt), "max_tokens": 1}
        logprobs: list[float] = (await self._content(asker, version, body))["logprobs"]
        return sum(logprobs)

    async def copy(
        self,
        asker: Tenant | None,
        version: Version,
        body: dict[str, Any],
        *,
        repetition: str,
    ) -> list[str]:
        """Generate with the options of another request, see `generate_tokens`; returns the reason why it ended.

        Raises: as `RequestService.serve`.
        """
        context = await self._context(asker, version, body)
        context = replace(context, sampling=replace(context.sampling, repetition=repetition))
        async with self.service.serve(context, Headers()):
            return context.usage.finish_reasons

    async def _content(self, asker: Tenant | None, version: Version, body: dict[str, Any]) -> dict[str, Any]:
        context = await self._context(asker, version, body)
        async with self.service.serve(context, Headers()) as answer:
            assert isinstance(answer, JsonAnswer)
            return answer.content

    async def _context(self, asker: Tenant | None, version: Version, body: dict[str, Any]) -> RequestContext:
        """It shares no cached blocks with requests, whose blocks are counted for their tenant."""
        name = asker.name if asker else ""
        role = Role.TENANT_ADMIN if asker else Role.OPERATOR
        key = Key("background", name or None, role, "", "", None, None, None, utc_now())
        return RequestContext(
            request_id=f"background-{secrets.token_hex(8)}",
            endpoint=Endpoint.COMPLETIONS,
            caller=Caller(key, asker),
            target=Target(f"{version.public_name}@{version.number}", version),
            sampling=Resolved(body, {"max_tokens": "request"}, ()),
            tenant_settings=asker.settings if asker else OPERATOR_SETTINGS,
            cache_salt=self.service.cache_salt(background_name(name)),
            price=await self.service.price_of(name, version.adapter),
            background=True,
        )
