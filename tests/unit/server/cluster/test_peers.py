"""Servers that ask each other for their history and requests, over real HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from certificates import Pair, write_pair
from fastapi import FastAPI

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.membership import Replica
from server.api.admin.all_servers import find_request, history_of
from server.api.replica import peer_router
from server.cluster import peers as peer_module
from server.cluster.peers import HISTORY, Peers
from server.errors import UnknownRequest
from server.observability.history import Finished, History
from server.request.access_log import AccessRecord
from server.usage.request_log import RequestLog

NOW_S = 1_800_000_030.0


class Registry:
    """What the servers share: who lives, and their key."""

    def __init__(self) -> None:
        self.servers: list[Replica] = []
        self.is_away = False

    async def get(self, name: str) -> bytes:
        return b"k" * 32

    def membership_of(self, own: Replica) -> Any:
        async def live() -> tuple[Replica, ...]:
            if self.is_away:
                raise RegistryUnavailable
            return tuple(self.servers)

        return SimpleNamespace(is_shared=True, own=own, live=live)


class Server:
    """One server's memory and its internal routes, on a socket."""

    def __init__(self, registry: Registry, name: str, port: int, pair: Pair | None) -> None:
        self.history, self.log = History(lambda: NOW_S), RequestLog()
        own = Replica(name, f"{'https' if pair else 'http'}://127.0.0.1:{port}", "1")
        registry.servers.append(own)
        membership: Any = registry.membership_of(own)
        self.peers = Peers(membership, registry, pair and pair.cert, lambda: NOW_S)  # type: ignore[arg-type]
        self.app = FastAPI()
        self.app.include_router(peer_router(self.peers, self.history, self.log))

    @property
    def services(self) -> Any:
        return SimpleNamespace(peers=self.peers, history=self.history, request_log=self.log)

    def answer(self, request_id: str, tenant: str, ttft_s: float) -> None:
        self.history.note(Finished(tenant, "support", failed=False, generated_tokens=5, ttft_s=ttft_s))
        self.log.note(AccessRecord(request_id, "POST", "/v1/chat/completions", tenant=tenant))


@contextmanager
def serving(registry: Registry, name: str, pair: Pair | None = None) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = Server(registry, name, listener.getsockname()[1], pair)
        files: Any = {"ssl_certfile": pair.cert, "ssl_keyfile": pair.key} if pair else {}
        http = uvicorn.Server(uvicorn.Config(server.app, lifespan="off", log_config=None, ws="none", **files))
        thread = threading.Thread(target=http.run, args=([listener],), daemon=True)
        thread.start()
        yield server
        http.should_exit = True
        thread.join(10)


@pytest.fixture
def three() -> Iterator[tuple[Registry, list[Server]]]:
    registry = Registry()
    with ExitStack() as stack:
        yield registry, [stack.enter_context(serving(registry, name)) for name in "abc"]


async def test_the_history_is_that_of_all_servers(three: tuple[Registry, list[Server]]) -> None:
    _, (a, b, c) = three
    a.answer("r-a", "acme", 0.02)
    b.answer("r-b", "acme", 4.0)
    c.answer("r-c", "globex", 0.02)
    seen = await history_of(a.services, "hour", "acme", None)
    point = seen.points[-1]
    assert (point.requests, point.generated_tokens, seen.servers, seen.missing) == (2, 10, 3, [])
    assert point.ttft_p50_s is not None and point.ttft_p95_s is not None
    assert point.ttft_p50_s <= 0.025 and point.ttft_p95_s > 2.5, "of the distribution, not of the medians"
    assert seen.adapters == [("acme", "support")], "nothing of others"
    everybody = await history_of(b.services, "day", None, None)
    assert everybody.points[-1].requests == 3 and ("globex", "support") in everybody.adapters
    again = await history_of(a.services, "hour", "acme", None)
    assert again.points[-1].requests == 2, "merging changes no server's memory"


async def test_a_request_is_found_on_the_server_that_answered_it(
    three: tuple[Registry, list[Server]],
) -> None:
    _, (a, b, _) = three
    b.answer("r-b", "acme", 0.1)
    found = await find_request(a.services, "chatcmpl-r-b", "acme")
    assert (found.server, found.request["request_id"]) == ("b", "r-b")
    assert (await find_request(a.services, "r-b", None)).server == "b"
    for unknown in (("r-b", "globex"), ("r-x", None)):
        with pytest.raises(UnknownRequest):
            await find_request(a.services, *unknown)


async def test_servers_that_do_not_answer_are_named(
    three: tuple[Registry, list[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, (a, b, _) = three
    b.answer("r-b", "acme", 0.1)
    monkeypatch.setattr(peer_module, "TIMEOUT_S", 0.3)
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and never answers
        closed.bind(("127.0.0.1", 0))  # refuses them
        registry.servers += [
            Replica(name, f"http://127.0.0.1:{each.getsockname()[1]}", "1")
            for name, each in (("silent", silent), ("closed", closed))
        ]
        seen = await history_of(a.services, "hour", "acme", None)
        assert (seen.points[-1].requests, seen.servers, sorted(seen.missing)) == (1, 3, ["closed", "silent"])
        assert (await find_request(a.services, "r-b", "acme")).server == "b"
        with pytest.raises(UnknownRequest, match="Did not answer: silent, closed"):
            await find_request(a.services, "r-x", "acme")
    registry.is_away = True
    assert (await history_of(a.services, "hour", "acme", None)).missing == ["registry"]


async def test_nobody_else_is_answered(three: tuple[Registry, list[Server]]) -> None:
    registry, _ = three
    target = f"{HISTORY}?span=hour"
    url = registry.servers[1].url
    sent_at = f"{NOW_S:.3f}"
    key = await registry.get("peers")
    good = f"{sent_at}.{peer_module._mac(key, 'b', target, sent_at)}"
    old_at = f"{NOW_S - 61:.3f}"
    wrong = [
        "",
        "x",
        f"{sent_at}.",
        f"{sent_at}.é",
        f"nan.{peer_module._mac(key, 'b', target, 'nan')}",
        f"{sent_at}.{peer_module._mac(key, 'a', target, sent_at)}",  # for another server
        f"{sent_at}.{peer_module._mac(key, 'b', target + '&tenant=acme', sent_at)}",  # another question
        f"{sent_at}.{peer_module._mac(b'x' * 32, 'b', target, sent_at)}",
        f"{old_at}.{peer_module._mac(key, 'b', target, old_at)}",
    ]
    async with httpx.AsyncClient() as client:
        for signature in wrong:
            headers = [(b"x-loragate-peer", signature.encode())]
            assert (await client.get(url + target, headers=headers)).status_code == 404, signature
        assert (await client.get(url + target, headers={"x-loragate-peer": good})).status_code == 200
        assert (
            await client.get(url + target, headers={"authorization": "Bearer demo-admin"})
        ).status_code == 404


async def test_with_https_the_servers_have_the_same_certificate(tmp_path: Path) -> None:
    registry = Registry()
    same, other = (write_pair(tmp_path / name) for name in ("same", "other"))
    with ExitStack() as stack:
        pairs = {"a": same, "b": same, "other": other, "plain": None}
        servers = {name: stack.enter_context(serving(registry, name, pair)) for name, pair in pairs.items()}
        servers["b"].answer("r-b", "acme", 0.1)
        seen = await history_of(servers["a"].services, "hour", None, None)
        assert (seen.points[-1].requests, seen.missing) == (1, ["other"])
        seen = await history_of(servers["plain"].services, "hour", None, None)
        assert sorted(seen.missing) == ["a", "b", "other"], "no certificate is trusted without one"
