"""One generating request: routed, resolved, and served while its adapter is held."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

from starlette.datastructures import Headers

from adapters.billing.prices import FREE, Price
from adapters.errors import EngineGone, LoadFailed, StoreDamaged
from adapters.lifecycle.blends.blending import ScaledVersion
from adapters.models import EngineAdapter, Version
from sampling.endpoints import Endpoint
from sampling.limits import Limits
from server.admission import Admission
from server.admission.leased_parts import LeaseShort
from server.errors import AdapterUnavailable
from server.fairness.shares import OPERATOR_SETTINGS
from server.request.body import Body, is_small, read
from server.request.body_memory import BodyMemory
from server.request.context import Answer, Caller, RequestContext, Target
from server.request.gate import Gate
from server.request.routing import ADAPTERS, Router, sticky_part
from server.request.sampling import SamplingResolver

logger = logging.getLogger("loragate")


class Prompts(Protocol):
    """Reads and renders large bodies outside of the event loop (`server.engine.rendering.prompt_workers`)."""

    async def read(self, tenant: str, endpoint: Endpoint, raw: bytes, limits: Limits) -> Body:
        """Parse and check a body; the result has no prompt. Raises: LoragateError."""

    async def render(
        self, tenant: str, endpoint: Endpoint, raw: bytes, lean: dict[str, Any], limits: Limits
    ) -> Any:
        """Render the prompt of a body, with the options of `lean`. Raises: LoragateError."""

    async def split(self, tenant: str, raw: bytes, limits: Limits) -> list[bytes]:
        """The bodies of the chats of a batch (`server.request.batch.split`). Raises: LoragateError."""

    async def tokenize(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of /tokenize's answer, its number of tokens. Raises: LoragateError."""

    async def detokenize(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of /detokenize's answer, the number of tokens sent. Raises: LoragateError."""

    async def count_tokens(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of the count of a prompt, the count. Raises: LoragateError."""


async def once(attempt: Callable[[], Awaitable[None]]) -> None:
    """Run an attempt where no limit is shared with other servers."""
    await attempt()


async def free(tenant: str, adapter: str) -> Price:
    """The price where there is no price list."""
    return FREE


@dataclass(slots=True, eq=False)
class RequestService:
    """Prepares generating requests and serves them."""

    router: Router
    sampling: SamplingResolver
    admission: Admission
    gate: Gate
    hold: Callable[[Version], AbstractAsyncContextManager[EngineAdapter]]
    """Keeps a version resident in the engine (`adapters.lifecycle.Lifecycle.hold`)."""
    track: Callable[[RequestContext], AbstractContextManager[None]]
    """Writes a request's usage to the ledger (`server.usage.ledger.Ledger.track`)."""
    handle: Callable[[RequestContext, Headers], Awaitable[Answer]]
    """Calls vLLM's handlers; raises EngineUnavailable while there is no engine."""
    prompts: Callable[[], Prompts]
    """Those of the running engine; raises EngineUnavailable while there is none."""
    hold_blend: Callable[[str, Sequence[ScaledVersion]], AbstractAsyncContextManager[EngineAdapter]]
    """Keeps the blend of a tenant's versions resident (`adapters.lifecycle.blends.request_blends`)."""
    admitted: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = once
    """Repeats an attempt while parts of shared limits can be leased for it (`server.admission.leases`)."""
    price_of: Callable[[str, str], Awaitable[Price]] = free
    """The price of a tenant's adapter ("": the base model) now (`server.usage.current_prices`)."""
    memory: BodyMemory = field(default_factory=lambda: BodyMemory(256 << 20))
    salt_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """The same on all servers of one registry: a tenant's cached blocks are its own, wherever they are shared."""
    in_flight: int = 0
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end of the process: requests that still run are aborted."""

    async def read(self, caller: Caller, endpoint: Endpoint, raw: bytes) -> Body:
        """Parse a body and check it against the limits: a small one here, a large one in a worker process.

        Raises:
            InvalidRequest, BodyLimitExceeded: it is not JSON, or above a limit.
            TooManyLargeRequests, EngineUnavailable: it cannot be read now.
        """
        limits = self.sampling.limits_for(caller.limits)
        if is_small(raw, endpoint):
            return Body(read(raw, limits), size_bytes=len(raw))
        return await self.prompts().read(caller.tenant_name, endpoint, raw, limits)

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: Body, headers: Headers, request_id: str
    ) -> RequestContext:
        """Route the request, and resolve its options and its price.

        Raises: InvalidRequest, ModelNotFound, SamplingError, RegistryUnavailable.
        """
        fields = body.fields
        adapters = fields.pop(ADAPTERS, None)  # ours: vLLM's handlers do not know it
        model, sticky = fields.get("model"), sticky_part(fields, headers)
        if adapters is None:
            target = await self.router.resolve(caller, model, sticky=sticky)
        else:
            target = await self.router.resolve_blend(caller, model, adapters, sticky=sticky)
        return RequestContext(
            request_id=request_id,
            endpoint=endpoint,
            caller=caller,
            target=target,
            sampling=self.sampling.resolve(
                fields,
                endpoint,
                adapter=target.defaults,
                tenant=caller.defaults,
                limits=caller.limits,
                preset_header=headers.get("x-loragate-preset"),
            ),
            tenant_settings=caller.tenant.settings if caller.tenant else OPERATOR_SETTINGS,
            cache_salt=self.cache_salt(caller.tenant_name),
            price=await self.price_of(caller.tenant_name, target.version.adapter if target.version else ""),
            limits=self.sampling.limits_for(caller.limits),
            body=body,
            debug=headers.get("x-loragate-debug") == "1",
        )

    @contextlib.asynccontextmanager
    async def serve(self, context: RequestContext, headers: Headers) -> AsyncIterator[Answer]:
        """Hold the adapter and a place in the gate while the answer is being sent.

        Raises:
            ResidencyBusy, VersionRetired, EngineGone, EngineUnavailable, AdapterUnavailable, AdmissionError,
            RegistryUnavailable: a limit is shared with other servers, and no more of it can be leased now.
        """
        self.in_flight += 1
        try:
            with self.track(context):
                await self._render(context)
                async with (
                    self._hold(context.target) as held,
                    contextlib.AsyncExitStack() as gate,
                ):
                    yield await self._answer(gate, replace(context, held=held), headers)
        finally:
            self.in_flight -= 1

    def rate_headers(self, context: RequestContext) -> dict[str, str]:
        """The present `x-ratelimit-*` headers."""
        caller = context.caller
        return self.admission.headers(caller.tenant_name, context.tenant_settings, caller.key)

    async def _answer(
        self, gate: contextlib.AsyncExitStack, context: RequestContext, headers: Headers
    ) -> Answer:
        """The handler's answer; `gate` closes its streams. Raises: as `serve`."""
        answers: list[Answer] = []
        short_at: float | None = None

        def end_wait() -> None:
            nonlocal short_at
            if short_at is not None:
                context.usage.lease_s += time.monotonic() - short_at
                short_at = None

        async def attempt() -> None:
            nonlocal short_at
            end_wait()
            async with contextlib.AsyncExitStack() as admitted:
                await admitted.enter_async_context(self.gate.admit(context))
                context.usage.held_at = time.monotonic()
                try:
                    answers.append(await self.handle(context, headers))
                    await self.gate.ready()
                except LeaseShort:
                    short_at = time.monotonic()
                    raise
                gate.push_async_exit(admitted.pop_all())

        try:
            await self.admitted(attempt)
        finally:
            end_wait()
        return answers[-1]

    async def _render(self, context: RequestContext) -> None:
        """Render the prompt of a large body, before an adapter is held for it."""
        body = context.body
        if body.raw is None:
            return
        tenant = context.caller.tenant_name
        with self.memory.hold(tenant, len(body.raw)):
            body.rendered = await self.prompts().render(
                tenant, context.endpoint, body.raw, context.sampling.body, context.limits
            )
        body.raw = None

    @contextlib.asynccontextmanager
    async def _hold(self, target: Target) -> AsyncIterator[EngineAdapter | None]:
        version = target.version
        async with contextlib.AsyncExitStack() as stack:
            held = None
            if version is not None:
                hold = self.hold_blend(version.tenant, target.blend) if target.blend else self.hold(version)
                try:
                    held = await stack.enter_async_context(hold)
                except EngineGone:
                    raise
                except (LoadFailed, StoreDamaged) as error:
                    # The caller may not see the reason, the operator may.
                    name = f"{version.public_name}@{version.number}"
                    logger.error("%s cannot be loaded: %s", name, error)
                    raise AdapterUnavailable(name) from error
            yield held

    def cache_salt(self, tenant: str) -> str:
        """A tenant's prefix-cache salt: no other tenant's prompt can hit its cached blocks."""
        return hmac.new(self.salt_key, tenant.encode(), sha256).hexdigest()
