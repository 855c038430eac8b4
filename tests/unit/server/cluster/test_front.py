"""The front before real HTTP servers: what it passes on, whom it asks next, and how a stream that breaks ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from front_servers import Handler, serving
from prometheus_client.parser import text_string_to_metric_families

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


async def echo(request: web.Request) -> web.Response:
    seen = {
        "headers": dict(request.headers),
        "path": request.path_qs,
        "body": (await request.read()).decode(errors="replace"),
    }
    return web.json_response(seen, status=201, headers={"x-request-id": "one"})


async def dying(request: web.Request) -> web.StreamResponse:
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def restarting(request: web.Request) -> web.Response:
    return web.json_response({"error": {"code": "engine_unavailable"}}, status=503)


async def breaking(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(b'data: {"n": 1}\n\n')
    await asyncio.sleep(0.05)
    assert request.transport is not None
    request.transport.abort()
    return answer


async def test_a_request_and_its_answer_are_passed_on_with_the_callers_address() -> None:
    async with serving(echo) as (client, servers):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"authorization": "Bearer k", "x-forwarded-for": "6.6.6.6", "connection": "close"}
        headers["traceparent"] = trace
        answer = await client.post(f"{CHAT}?a=%2F1", headers=headers, json={"model": "acme-support@3"})
        seen = answer.json()
        assert answer.status_code == 201 and answer.headers["x-request-id"] == "one"
        assert answer.headers["x-loragate-server"] == "0"
        assert seen["path"] == f"{CHAT}?a=%2F1" and json.loads(seen["body"]) == {"model": "acme-support@3"}
        assert seen["headers"]["Authorization"] == "Bearer k"
        assert seen["headers"]["X-Forwarded-For"] == "10.0.0.9"
        assert seen["headers"]["traceparent"] == trace, "the server's spans belong to the caller's"
        assert servers.asked == [("acme-support", None)]


@pytest.mark.parametrize(
    ("body", "headers", "asked"),
    [
        ({"model": "m", "prompt_cache_key": "k"}, {}, ("m", "k")),
        ({"model": "m", "prompt_cache_key": "k"}, {"x-session-id": "s"}, ("m", "s")),
        ({"model": 3}, {}, (None, None)),
        ([1], {}, (None, None)),
        ({}, {}, (None, None)),
    ],
)
async def test_what_decides_which_server(body: Any, headers: dict[str, str], asked: tuple[Any, Any]) -> None:
    async with serving(echo) as (client, servers):
        assert (await client.post(CHAT, headers=headers, json=body)).status_code == 201
        assert servers.asked == [asked]


@pytest.mark.parametrize("broken", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_a_body_that_cannot_be_read_is_the_servers_to_refuse(broken: bytes) -> None:
    async with serving(echo) as (client, servers):
        assert (await client.post(CHAT, content=broken)).status_code == 201
        assert servers.asked == [(None, None)]


async def test_a_large_body_is_searched_for_its_model() -> None:
    async with serving(echo, max_body_bytes=4 << 20) as (client, servers):
        await client.post(CHAT, json={"messages": "x" * (2 << 20), "model": "m"})
        assert servers.asked == [("m", None)]


async def test_a_body_above_the_limit_is_refused() -> None:
    async with serving(echo, max_body_bytes=100) as (client, servers):
        answer = await client.post(CHAT, content=b"x" * 101)
        assert answer.status_code == 413 and "100 are accepted" in answer.json()["error"]["message"]
        assert servers.asked == []


@pytest.mark.parametrize("failing", [dying, restarting])
async def test_another_server_answers_when_one_fails_before_its_answer(failing: Handler) -> None:
    async with serving(failing, echo) as (client, servers):
        assert (await client.post(CHAT, json={"model": "m"})).status_code == 201
        assert len(servers.asked) == 2


async def test_a_server_that_does_not_listen_is_passed_over() -> None:
    async with serving(echo) as (client, servers):
        servers.urls.insert(0, "http://127.0.0.1:9")
        assert (await client.post("/admin/v1/tenants", json={})).status_code == 201


async def test_a_change_whose_server_died_is_not_repeated() -> None:
    async with serving(dying, echo) as (client, servers):
        answer = await client.post("/admin/v1/tenants", json={"name": "acme"})
        assert answer.status_code == 503 and "whether it took effect" in answer.json()["error"]["message"]
        assert len(servers.asked) == 1


async def plain_metrics(request: web.Request) -> web.Response:
    return web.Response(text="# HELP a_total A.\n# TYPE a_total counter\na_total 1.0\n")


async def test_the_front_counts_answers_failures_and_what_it_refuses_itself() -> None:
    def either(failing: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await (plain_metrics if request.path == "/metrics" else failing)(request)

        return handle

    async with serving(either(dying), either(breaking), max_body_bytes=100) as (client, _):
        await client.post(CHAT, json={"model": "m", "stream": True})
        await client.post(CHAT, content=b"x" * 101)
        text = (await client.get("/metrics")).text
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        assert found == {
            ("a_total", "r0"): 1,
            ("a_total", "r1"): 1,
            ("loragate_front_answers_total", "f", "1", "200"): 1,
            ("loragate_front_failed_servers_total", "f", "0"): 1,
            ("loragate_front_broken_answers_total", "f", "1"): 1,
            ("loragate_front_refused_total", "body_too_large", "f"): 1,
            ("loragate_front_requests_in_flight", "f"): 1,  # this one
        }


async def test_without_a_server_it_is_a_503() -> None:
    async with serving(restarting) as (client, _):
        answer = await client.post(CHAT, json={"model": "m"})
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "end"), [(CHAT, "data: [DONE]\n\n"), (MESSAGES, '"code": "engine_unavailable"}}\n\n')]
)
async def test_a_stream_that_breaks_ends_with_an_error_in_its_apis_form(path: str, end: str) -> None:
    async with serving(breaking, echo) as (client, servers):
        text = (await client.post(path, json={"model": "m", "stream": True})).text
        first, error, *_ = text.split("\n\n")
        assert first == 'data: {"n": 1}' and "error" in error and text.endswith(end)
        assert len(servers.asked) == 1  # what has begun is not begun again


async def test_the_server_learns_that_the_client_has_left() -> None:
    left = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            left.set()
            raise
        return web.Response()

    async with serving(slow) as (client, _):
        asking = asyncio.create_task(client.get("/v1/models"))
        await asyncio.sleep(0.2)
        asking.cancel()
        await asyncio.wait_for(left.wait(), 5)


async def test_an_upload_is_passed_on_while_it_comes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    async def count(request: web.Request) -> web.Response:
        return web.json_response({"bytes": len(await request.read())})

    async with serving(count, max_body_bytes=1000) as (client, _):
        headers = {"content-type": "application/x-tar"}
        answer = await client.post("/admin/v1/adapters/a/b/versions", content=pieces(), headers=headers)
        assert answer.json() == {"bytes": 3_000_000}


async def test_an_upload_whose_server_does_not_listen_is_a_503() -> None:
    async with serving(echo) as (client, servers):
        servers.urls[:] = ["http://127.0.0.1:9"]
        headers = {"content-type": "application/x-tar"}
        answer = await client.post("/admin/v1/adapters/a/b/versions", content=b"x", headers=headers)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_unavailable"


async def test_what_servers_tell_their_fronts_is_nobody_elses() -> None:
    async with serving(echo) as (client, servers):
        assert (await client.get("/internal/replica")).status_code == 404
        assert servers.asked == []


async def test_a_server_is_drained_by_its_id_and_by_no_other() -> None:
    async with serving(echo, echo) as (client, servers):
        for name in ("r1", "s1"):  # as the front and as the registry call it
            answer = await client.post(
                f"/admin/v1/cluster/{name}/drain", headers={"authorization": "Bearer k"}
            )
            assert answer.json()["path"] == "/admin/v1/cluster/s1/drain"
            assert answer.json()["headers"]["Authorization"] == "Bearer k"
            assert answer.headers["x-loragate-server"] == "r1"
        gone = await client.post("/admin/v1/cluster/r9/drain")
        assert gone.status_code == 404 and "loragate cluster status" in gone.json()["error"]["message"]
        assert servers.asked == []
        servers.urls[0] = "http://127.0.0.1:9"
        assert (await client.post("/admin/v1/cluster/r0/drain")).status_code == 503
