"""One generating request: routed, resolved, and served while its adapter is held."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers

from adapters.errors import EngineGone, LoadFailed, StoreDamaged
from adapters.models import EngineAdapter, Version
from sampling.endpoints import Endpoint
from server.admission import Admission
from server.errors import AdapterUnavailable
from server.fairness.shares import OPERATOR_SETTINGS
from server.request.context import Answer, Caller, RequestContext
from server.request.gate import Gate
from server.request.routing import Router, sticky_part
from server.request.sampling import SamplingResolver

logger = logging.getLogger("loragate")


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
    in_flight: int = 0
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end of the process: requests that still run are aborted."""
    _salt_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: dict[str, Any], headers: Headers, request_id: str
    ) -> RequestContext:
        """Route the request and resolve its options. Raises: InvalidRequest, ModelNotFound, SamplingError."""
        target = await self.router.resolve(caller, body.get("model"), sticky=sticky_part(body, headers))
        return RequestContext(
            request_id=request_id,
            endpoint=endpoint,
            caller=caller,
            target=target,
            sampling=self.sampling.resolve(
                body,
                endpoint,
                adapter=target.defaults,
                tenant=caller.defaults,
                limits=caller.limits,
                preset_header=headers.get("x-loragate-preset"),
            ),
            tenant_settings=caller.tenant.settings if caller.tenant else OPERATOR_SETTINGS,
            cache_salt=self._salt(caller.tenant_name),
            limits=self.sampling.limits_for(caller.limits),
            debug=headers.get("x-loragate-debug") == "1",
        )

    @contextlib.asynccontextmanager
    async def serve(self, context: RequestContext, headers: Headers) -> AsyncIterator[Answer]:
        """Hold the adapter and a place in the gate while the answer is being sent.

        Raises:
            ResidencyBusy, VersionRetired, EngineGone, EngineUnavailable, AdapterUnavailable, AdmissionError
        """
        self.in_flight += 1
        try:
            with self.track(context):
                async with (
                    self._hold(context.target.version) as held,
                    self.gate.admit(replace(context, held=held)) as held_context,
                ):
                    context.usage.held_at = time.monotonic()
                    yield await self.handle(held_context, headers)
        finally:
            self.in_flight -= 1

    def rate_headers(self, context: RequestContext) -> dict[str, str]:
        """The present `x-ratelimit-*` headers."""
        return self.admission.headers(context.caller.tenant_name, context.tenant_settings)

    @contextlib.asynccontextmanager
    async def _hold(self, version: Version | None) -> AsyncIterator[EngineAdapter | None]:
        async with contextlib.AsyncExitStack() as stack:
            held = None
            if version is not None:
                try:
                    held = await stack.enter_async_context(self.hold(version))
                except EngineGone:
                    raise
                except (LoadFailed, StoreDamaged) as error:
                    # The caller may not see the reason, the operator may.
                    name = f"{version.public_name}@{version.number}"
                    logger.error("%s cannot be loaded: %s", name, error)
                    raise AdapterUnavailable(name) from error
            yield held

    def _salt(self, tenant: str) -> str:
        """A tenant's prefix-cache salt: no other tenant's prompt can hit its cached blocks."""
        return hmac.new(self._salt_key, tenant.encode(), sha256).hexdigest()
