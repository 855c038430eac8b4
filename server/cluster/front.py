"""The front of several servers: an ASGI relay that sends each request to one of them and passes its answer on.

It keeps no state and reads nothing of a request but its model, its session and its path. A server that fails before
the first byte of its answer is replaced by another; one that fails later leaves its stream with an error event. A
front decides nothing about keys, limits and versions: every server does, and all agree through their registry.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import aiohttp
import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from yarl import URL

from adapters.errors import NotFound
from sampling.endpoints import Endpoint
from server.api.errors import error_response, rule_of
from server.api.middleware.body_reader import is_upload
from server.cluster.merged_answers import merges
from server.cluster.relay import (
    AskedServer,
    ClientLeft,
    NoReplica,
    RelayMetrics,
    ServerFailed,
    body_pieces,
    forwarded_headers,
    read_body,
    send_answer,
)
from server.errors import BodyTooLarge

logger = logging.getLogger("loragate.front")

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05
_DRAIN = re.compile(r"/admin/v1/cluster/([^/]+)/drain")
_GENERATING = frozenset(endpoint.path for endpoint in Endpoint)


class Target(msgspec.Struct):
    """What the front reads of a body."""

    model: str | None = None
    prompt_cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A server for one request. `id` tells it apart when it has failed; `server` is its id in the registry."""

    id: str
    url: str
    server: str = ""


class Chooser(Protocol):
    """Chooses servers (`server.cluster.ray_chooser`)."""

    def choose(
        self, adapter: str | None, session: str | None, failed: frozenset[str]
    ) -> AbstractAsyncContextManager[Chosen]:
        """A server, which counts the request until the context ends. Raises: NoReplica."""

    async def connect(self) -> None:
        """Learn of the servers; before that, `all` may have none. Returns when one accepts requests."""

    def all(self) -> list[Chosen]:
        """Every server."""

    async def aclose(self) -> None:
        """Choose no more."""


class Front:
    """The ASGI application.

    Args:
        chooser: chooses servers.
        http: what asks them; it must not raise for statuses, and have no limit of connections.
        max_body_bytes: larger bodies are refused, except of uploads, which are passed on as they come.
        metrics: counts what this front does.
    """

    def __init__(
        self,
        chooser: Chooser,
        http: aiohttp.ClientSession,
        max_body_bytes: int,
        metrics: RelayMetrics,
    ) -> None:
        self._chooser = chooser
        self._http = http
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._merges = merges(metrics.text)
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        self.in_flight += 1
        try:
            with self._metrics.in_flight():
                answer = await self._answer(scope, receive, send)
                if answer is not None:
                    await answer(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> ASGIApp | None:
        """Send a server's answer; returns what is to be sent instead."""
        path = scope["path"]
        try:
            if path.startswith("/internal/"):
                raise NotFound(f"There is no route {path}.")
            if (merge := self._merges.get(path)) and scope["method"] == "GET":
                return await merge(self._http, self._chooser.all(), forwarded_headers(scope))
            if (drained := _DRAIN.fullmatch(path)) and scope["method"] == "POST":
                await self._relay_drain(scope, drained[1], receive, send)
            elif _is_upload(scope):
                await self._relay_upload(scope, receive, send)
            else:
                body = await read_body(receive, self._max_body_bytes)
                await self._relay(scope, body, receive, send)
        except (NoReplica, BodyTooLarge, NotFound) as error:
            return self._refusal(error, path)
        except ServerFailed:
            return self._refusal(NoReplica("The chosen server failed; try again shortly."), path)
        except ClientLeft:
            pass
        return None

    def _refusal(self, error: Exception, path: str) -> ASGIApp:
        self._metrics.refused(rule_of(error).code)
        return error_response(error, path)

    async def _pass_on(
        self,
        scope: Scope,
        chosen: Chosen,
        answer: aiohttp.ClientResponse,
        first: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        self._metrics.answered(chosen.id, answer.status)
        broke_off = partial(self._metrics.broke_off, chosen.id)
        await send_answer(scope, answer, first, receive, _telling(send, chosen), broke_off)

    async def _relay(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        target = _target(scope, body)
        adapter = target.model.partition("@")[0] if target.model else None
        session = Headers(scope=scope).get("x-session-id") or target.prompt_cache_key
        failed: frozenset[str] = frozenset()
        for attempt in range(_ATTEMPTS):
            async with AsyncExitStack() as held:
                chosen = await held.enter_async_context(self._chooser.choose(adapter, session, failed))
                try:
                    answer = await held.enter_async_context(self._request(scope, chosen, body))
                    first = await self._first(scope, answer)
                except ServerFailed as error:
                    logger.warning("%s failed before its answer: %s", chosen.url, error.__cause__ or error)
                    failed |= {chosen.id}
                    self._metrics.failed(chosen.id)
                else:
                    return await self._pass_on(scope, chosen, answer, first, receive, send)
            await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise NoReplica(f"{len(failed)} servers of the cluster failed for this request; try again shortly.")

    async def _first(self, scope: Scope, answer: aiohttp.ClientResponse) -> bytes:
        """The first bytes of an answer. Raises: ServerFailed."""
        if answer.status == 503 and scope["path"] in _GENERATING:
            raise ServerFailed(await answer.text())
        try:
            return await answer.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise ServerFailed from error

    def _request(
        self, scope: Scope, chosen: Chosen, body: bytes | AsyncIterator[bytes]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = chosen.url + scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        request = self._http.request(
            scope["method"],
            URL(f"{url}?{query}" if query else url, encoded=True),
            data=body or None,
            headers=forwarded_headers(scope),
            allow_redirects=False,
        )
        return AskedServer(request, retry=scope["method"] in ("GET", "HEAD") or scope["path"] in _GENERATING)

    async def _relay_drain(self, scope: Scope, name: str, receive: Receive, send: Send) -> None:
        """Pass the request on to the server that it names. Raises: NotFound."""
        for server in self._chooser.all():
            if name in (server.id, server.server):
                path = f"/admin/v1/cluster/{server.server}/drain".encode()
                async with self._request({**scope, "raw_path": path}, server, b"") as answer:
                    await self._pass_on(scope, server, answer, b"", receive, send)
                return
        raise NotFound(f"No server has the id {name!r}; `loragate cluster status` lists them.")

    async def _relay_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a body on as it comes; it is not kept, so no other server could try."""
        async with (
            self._chooser.choose(None, None, frozenset()) as chosen,
            self._request(scope, chosen, body_pieces(receive)) as answer,
        ):
            await self._pass_on(scope, chosen, answer, b"", receive, send)


def _telling(send: Send, chosen: Chosen) -> Send:
    """`send` that says in the answer's headers which server has answered."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-loragate-server", chosen.id.encode())]
        await send(message)

    return send_with_header


def _target(scope: Scope, body: bytes) -> Target:
    """What the body says about its model; a body that says nothing readable goes anywhere, to be refused there.

    Skipping the rest of 16 MiB takes at most 8 ms.
    """
    if scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
        return Target()
    try:
        return msgspec.json.decode(body, type=Target)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Target()


def _is_upload(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/admin/v1/adapters/")) and is_upload(Headers(scope=scope))
