"""The composition root: the only place where the server's objects meet."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import replace
from hashlib import sha256
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.routing import Route

from adapters.errors import AdapterError, EngineGone
from adapters.lifecycle import Lifecycle, Rules
from adapters.records import EngineAdapter, Version
from adapters.registry import Registry, check_schema, connect, migrate
from adapters.registry.schema import current_revision
from adapters.residency import Residency
from adapters.store import Store
from sampling.endpoints import Endpoint
from sampling.layers import NO_DEFAULTS, Resolved, resolve
from sampling.presets import Presets
from server import seed
from server.admission import Admission, Capacity
from server.api import admin, errors, health, models
from server.api.attempts import SlowAttempts
from server.api.middleware import RequestMiddleware
from server.api.openai import GenerateRoute
from server.attempts import Attempts
from server.auth import Authenticator
from server.base_model import adapter_rules
from server.engine.handlers import Handlers
from server.engine.loader import CurrentEngine
from server.engine.runtime import Engine, start
from server.errors import Draining, EngineUnavailable
from server.fairness.policy import OPERATOR_POLICY, Policy
from server.gate import Gate
from server.ledger import Ledger
from server.metrics import Metrics
from server.records import Answer, Caller, Passage
from server.routing import Router
from server.settings import Settings
from server.supervisor import State, Supervisor

logger = logging.getLogger("loragate")

#: How often registry and engine are compared.
RECONCILE_INTERVAL_S = 15.0
#: What an engine has before one was started; replaced by the real figures at every start.
_NO_CAPACITY = Capacity(kv_blocks=1, block_size_tokens=1, max_num_seqs=1)


class Server:
    """One running loragate: what the routes ask, over the parts that answer."""

    def __init__(
        self, settings: Settings, registry: Registry, store: Store, rules: Rules, runner: Executor
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.auth = Authenticator(registry)
        self.attempts = Attempts()
        self.router = Router(registry, base_model_name=settings.base_model_name)
        self.metrics = Metrics()
        self.presets = Presets()
        self._admission = Admission(_NO_CAPACITY)
        self._gate = Gate(self._admission)
        self._salt_key = secrets.token_bytes(32)
        self.supervisor: Supervisor[Engine] = Supervisor(
            lambda: start(settings, self._gate, runner),
            self._gate,
            on_start=self._engine_started,
            backoff_s=settings.restart_backoff_s,
        )
        self.residency = Residency(
            CurrentEngine(self.supervisor), capacity=settings.adapters_held, wait_s=settings.adapter_wait_s
        )
        self.lifecycle = Lifecycle(registry, store, self.residency, rules)
        self.ledger = Ledger(registry.usage, self._block_seconds)
        self.passages = 0
        self.leaving = False  # /ready says no, work is still taken
        self.ending = asyncio.Event()  # what still runs is cut off

    # --- who calls, and may anything come in -------------------------------------------------------------

    async def identify(self, headers: Headers) -> Caller:
        """Who calls; raises Unauthenticated."""
        return await self.auth.authenticate(headers)

    async def enter(self, headers: Headers) -> Caller:
        """Who calls, when the server takes work. Raises: Unauthenticated, EngineUnavailable, Draining."""
        caller = await self.auth.authenticate(headers)
        if self.supervisor.state in (State.DRAINING, State.STOPPED):
            raise Draining(retry_after_s=1)
        if self.supervisor.state is not State.READY:
            raise EngineUnavailable(f"The engine is {self.supervisor.state}; try again shortly.")
        return caller

    # --- a generating request ----------------------------------------------------------------------------

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: dict[str, Any], headers: Headers, request_id: str
    ) -> tuple[Passage, Resolved]:
        """Route the request and fill its decoding options in.

        Raises:
            InvalidRequest, ModelNotFound, SamplingError
        """
        sticky = headers.get("x-session-id") or body.get("user")
        target = await self.router.resolve(
            caller, body.get("model"), sticky=sticky if isinstance(sticky, str) else ""
        )
        resolved = resolve(
            body,
            endpoint=endpoint,
            server=NO_DEFAULTS,
            adapter=target.defaults,
            tenant=caller.defaults,
            presets=self.presets,
            preset_header=headers.get("x-loragate-preset"),
            limits=caller.limits,
        )
        passage = Passage(
            request_id=request_id,
            caller=caller,
            target=target,
            policy=Policy.of(caller.tenant) if caller.tenant else OPERATOR_POLICY,
            cache_salt=self._salt(caller.tenant_name),
            held=None,
            max_tokens_named="max_tokens" in resolved.origins,
            unplaced=resolved.unplaced,
            debug=headers.get("x-loragate-debug") == "1",
        )
        return passage, resolved

    @contextlib.asynccontextmanager
    async def serve(
        self, endpoint: Endpoint, passage: Passage, resolved: Resolved, headers: Headers
    ) -> AsyncIterator[Answer]:
        """Hold the adapter and a place in the gate while the answer is being sent."""
        self.passages += 1
        try:
            with self.ledger.watch(passage):
                async with (
                    self._hold(passage.target.version) as held,
                    self._gate.admit(replace(passage, held=held)) as held_passage,
                ):
                    engine = self.supervisor.engine
                    if engine is None:
                        raise EngineUnavailable
                    yield await engine.handlers.handle(endpoint, resolved.body, held_passage, headers)
        finally:
            self.passages -= 1

    def rate_headers(self, passage: Passage) -> dict[str, str]:
        """`x-ratelimit-*` as they stand now."""
        return self._admission.headers(passage.caller.tenant_name, passage.policy)

    def observe(self, endpoint: Endpoint, passage: Passage, status: int) -> None:
        """Count a finished request."""
        self.metrics.observe(endpoint.value, passage, status)

    def _hold(self, version: Version | None) -> contextlib.AbstractAsyncContextManager[EngineAdapter | None]:
        return self.lifecycle.hold(version) if version else contextlib.nullcontext()

    def _salt(self, tenant: str) -> str:
        """A tenant's prefix-cache salt: no other tenant's prompt can hit what this one cached."""
        return hmac.new(self._salt_key, tenant.encode(), sha256).hexdigest()

    # --- models and tokens -------------------------------------------------------------------------------

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """The model cards that the caller may see."""
        base = self.settings.base_model_name
        cards = [self._card(base, None, None)] if self.router.sees_base(caller) else []
        return cards + [
            self._card(name, made_at, base) for name, made_at in await self.router.visible(caller)
        ]

    async def model(self, caller: Caller, name: str) -> dict[str, Any]:
        """One model card. Raises: ModelNotFound."""
        target = await self.router.resolve(caller, name)
        if target.version is None:
            return self._card(name, None, None)
        return self._card(name, target.version.created_at.timestamp(), self.settings.base_model_name)

    async def tokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Token ids. Raises: ModelNotFound, InvalidRequest, EngineUnavailable."""
        return await (await self._handlers_for(caller, body)).tokenize(body, request_id)

    async def detokenize(self, caller: Caller, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Text. Raises: ModelNotFound, InvalidRequest, EngineUnavailable."""
        return await (await self._handlers_for(caller, body)).detokenize(body, request_id)

    async def _handlers_for(self, caller: Caller, body: dict[str, Any]) -> Handlers:
        if body.get("model") is not None:
            await self.router.resolve(caller, body["model"])
        engine = self.supervisor.engine
        if engine is None:
            raise EngineUnavailable
        return engine.handlers

    def _card(self, name: str, made_at: float | None, parent: str | None) -> dict[str, Any]:
        engine = self.supervisor.engine
        return {
            "id": name,
            "object": "model",
            "created": int(made_at or _STARTED_AT),
            "owned_by": "loragate",
            "parent": parent,
            "max_model_len": engine.max_model_len if engine else self.settings.max_model_len,
        }

    # --- health ------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the server stands."""
        return self.supervisor.state

    @property
    def engine_alive(self) -> bool:
        """Whether an engine is there, serves and has not died."""
        engine = self.supervisor.engine
        return engine is not None and not engine.errored and self.state in (State.READY, State.DRAINING)

    async def registry_answers(self) -> bool:
        """Whether the database can be read."""
        try:
            await self.registry.ping()
        except (SQLAlchemyError, OSError):
            return False
        return True

    async def check_scraper(self, headers: Headers) -> None:
        """Raises: Unauthenticated, Forbidden; with --protect-metrics, for all but operators."""
        if self.settings.protect_metrics:
            await self.auth.operator(headers)

    def exposition(self) -> bytes:
        """The metrics' text."""
        self.metrics.restarts.set(self.supervisor.restarts)
        self.metrics.ready.set(self.welcome)
        self.metrics.failed_attempts.set(self.attempts.total)
        self.metrics.adapters_resident.set(len(self.residency.snapshot().slots))
        return self.metrics.exposition()

    @property
    def welcome(self) -> bool:
        """Whether new requests are wanted."""
        return self.state is State.READY and self.engine_alive and not self.leaving

    # --- the engine comes and goes -----------------------------------------------------------------------

    async def restore_budgets(self) -> None:
        """Charge what the ledger knows to the budgets of the running day and month."""
        await self.ledger.restore(await self.registry.tenants.list(), self._admission)

    async def _block_seconds(self) -> dict[str, float] | None:
        engine = self.supervisor.engine
        if engine is None or self.state not in (State.READY, State.DRAINING):
            return None
        try:
            tenants = (await engine.scheduler_report())["tenants"]
        except EngineGone:
            return None
        return {name: counted["kv_block_seconds"] for name, counted in tenants.items()}

    async def _engine_started(self, engine: Engine) -> None:
        self.ledger.start_over()
        self._admission.capacity = Capacity(
            kv_blocks=max(1, engine.kv_blocks - 1),  # vLLM keeps one null block
            block_size_tokens=engine.block_size_tokens,
            max_num_seqs=self.settings.max_num_seqs,
        )
        if self.supervisor.restarts:
            await self.residency.reset()
        else:
            for error in await self.lifecycle.restore_pins():
                logger.error("a pinned adapter could not be loaded: %s", error)
        if self.settings.demo:
            await seed.add_adapters(self.registry, self.lifecycle)

    async def keep_house(self) -> None:
        """Mend what drifts, for ever: the engine's adapters, broken-off drains, files nobody needs."""
        while True:
            await asyncio.sleep(RECONCILE_INTERVAL_S)
            if self.state is State.READY:
                try:
                    await self.lifecycle.reconcile()
                except (AdapterError, SQLAlchemyError, OSError):
                    logger.exception("reconciling failed; it is tried again")


_STARTED_AT = time.time()


@contextlib.asynccontextmanager
async def open_server(settings: Settings, runner: Executor) -> AsyncIterator[Server]:
    """Open database and store, and make the server over them; the engine is not started yet.

    Args:
        settings: what to serve.
        runner: the one thread that starts engines (see `server.engine.orphans`).

    Raises:
        SchemaMismatch: the database was made by another version.
    """
    database = connect(settings.registry_url)
    try:
        if await current_revision(database) is None:
            await migrate(settings.registry_url)  # a new database: there is nothing to back up
        await check_schema(database)
        registry = Registry(database, reserved_names={settings.base_model_name})
        if settings.demo:
            await seed.add_tenants(registry)
        store = Store(settings.home / "adapters")
        server = Server(settings, registry, store, await adapter_rules(settings), runner)
        await server.lifecycle.recover()
        await server.restore_budgets()
        house = asyncio.create_task(server.keep_house(), name="house")
        writing = asyncio.create_task(server.ledger.run(), name="ledger")
        try:
            yield server
        finally:
            house.cancel()
            writing.cancel()
            await server.lifecycle.aclose()
            await asyncio.wait([writing])
            await server.ledger.flush()
            await server.supervisor.stop()
    finally:
        await database.dispose()


def make_app(server: Server) -> FastAPI:
    """The ASGI application: the allow-list of routes, and nothing of vLLM's own."""
    app = FastAPI(title="loragate", docs_url=None, redoc_url=None)
    for endpoint in Endpoint:
        app.router.routes.append(Route(endpoint.path, GenerateRoute(server, endpoint), methods=["POST"]))
    app.include_router(models.router(server))
    app.include_router(health.router(server))
    app.include_router(admin.router(server))
    errors.install(app)
    app.add_middleware(SlowAttempts, attempts=server.attempts)
    app.add_middleware(RequestMiddleware, max_body_bytes=server.settings.max_body_bytes)
    return app
