"""The whole application over a real SQLite registry, with a stand-in where the engine is."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from adapters.models import EngineAdapter
from server.app.composition import Server, open_server
from server.app.routes import make_app
from server.config.settings import load
from server.engine.supervisor import State
from server.request.context import JsonAnswer, RequestContext
from tests.unit.migrated_database import put_migrated_database

OPERATOR_KEY = "demo-admin"
#: Answers to wrong keys are slowed by client address, so each request comes from another one.
_addresses = itertools.count(1)


@dataclass
class StandInEngine:
    """Takes every adapter and answers every request with `{}`; keeps what it was asked."""

    errored: bool = False
    max_model_len: int = 512
    ids: set[int] = field(default_factory=set)
    asked: list[RequestContext] = field(default_factory=list)

    @property
    def handlers(self) -> Any:
        return SimpleNamespace(handle=self.handle)

    async def handle(self, context: RequestContext, headers: Any) -> JsonAnswer:
        self.asked.append(context)
        return JsonAnswer({})

    async def load(self, adapter: EngineAdapter) -> None:
        self.ids.add(adapter.engine_id)

    async def unload(self, engine_id: int) -> None:
        self.ids.discard(engine_id)

    async def loaded(self) -> frozenset[int]:
        return frozenset(self.ids)

    async def probe(self, adapter: EngineAdapter) -> None:
        assert adapter.engine_id in self.ids

    async def scheduler_report(self) -> None:
        return None

    async def stop(self) -> None:
        return None


@dataclass
class Composed:
    """The application, and a client for it."""

    app: FastAPI
    engine: StandInEngine
    server: Server

    async def ask(
        self, method: str, path: str, key: str | None = OPERATOR_KEY, **request: Any
    ) -> httpx.Response:
        """One request with this key, or without any."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= request.pop("headers", {})
        number = next(_addresses)
        transport = httpx.ASGITransport(self.app, client=(f"10.0.{number // 256 % 256}.{number % 256}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://loragate") as client:
            return await client.request(method, path, headers=headers, **request)

    async def make(self, method: str, path: str, **request: Any) -> Any:
        """What an operator's request answers; it must succeed."""
        answer = await self.ask(method, path, **request)
        assert answer.is_success, answer.text
        return answer.json()


@contextlib.asynccontextmanager
async def compose(folder: Path, **settings: Any) -> AsyncIterator[Composed]:
    """The demo's application, ready for requests."""
    chosen = load({"demo": True, "data_dir": folder, **settings})
    database = chosen.home / "loragate.db"
    if not database.exists():
        await put_migrated_database(database)
    with ThreadPoolExecutor(1) as runner:
        async with open_server(chosen, runner) as server:
            engine: Any = StandInEngine()
            server.engine.supervisor.engine = engine
            server.engine.supervisor.state = State.READY
            yield Composed(make_app(server), engine, server)
