"""The composed server before its engine is up: what answers already, and what says that it cannot yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from server.app.composition import open_server
from server.app.routes import make_app
from server.config.settings import load


@pytest.fixture(scope="module")
async def starting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """One for all tests: its series are in the process's own registry, where they can be but once."""
    settings = load({"demo": True, "data_dir": tmp_path_factory.mktemp("app"), "protect_metrics": True})
    with ThreadPoolExecutor(1) as runner:
        async with open_server(settings, runner) as server:
            transport = httpx.ASGITransport(make_app(server))
            async with httpx.AsyncClient(transport=transport, base_url="http://loragate") as client:
                yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_probes_tell_that_it_starts(starting: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready"):
        answer = await starting.get(path)
        assert answer.status_code == 503 and answer.json() == {"status": "starting"}


async def test_work_is_refused_with_a_time_to_come_back(starting: httpx.AsyncClient) -> None:
    answer = await starting.post("/v1/chat/completions", json={}, headers=bearer("demo-acme"))
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_unavailable"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert (await starting.post("/v1/chat/completions", json={})).status_code == 401


async def test_protected_metrics_are_for_operators_and_need_no_engine(starting: httpx.AsyncClient) -> None:
    assert (await starting.get("/metrics")).status_code == 401
    assert (await starting.get("/metrics", headers=bearer("demo-acme"))).status_code == 403
    answer = await starting.get("/metrics", headers=bearer("demo-admin"))
    assert answer.status_code == 200 and "\nloragate_ready 0.0\n" in answer.text
    assert 'loragate_rejections_total{reason="engine_unavailable"' in answer.text
    assert "\nloragate_failed_attempts_total 2.0\n" in answer.text
    assert 'loragate_registry_query_seconds_bucket{le="0.1",operation="select"}' in answer.text
    assert "loragate_kv_used_blocks{" not in answer.text


async def test_the_registry_can_be_managed(starting: httpx.AsyncClient) -> None:
    answer = await starting.get("/admin/v1/tenants", headers=bearer("demo-admin"))
    assert {"acme", "globex"} <= {tenant["name"] for tenant in answer.json()["data"]}


async def test_the_schema_tells_of_every_route_and_who_may_ask(starting: httpx.AsyncClient) -> None:
    schema = (await starting.get("/openapi.json")).json()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/feedback"):
        operation = schema["paths"][path]["post"]
        assert operation["security"] == [{"key": []}] and operation["requestBody"]["content"]
        assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
            "Error"
        )
    assert schema["paths"]["/health"]["get"]["security"] == []
    assert not any(
        "422" in operation["responses"] for path in schema["paths"].values() for operation in path.values()
    )


async def test_who_may_not_ask_is_not_told_what_is_wrong_with_the_question(
    starting: httpx.AsyncClient,
) -> None:
    for headers, status in (({}, 401), (bearer("demo-admin"), 400)):
        headers = {"content-type": "application/json", **headers}
        answer = await starting.post("/admin/v1/tenants", content="{", headers=headers)
        assert answer.status_code == status


async def test_a_database_that_is_away_is_not_an_error_of_ours(
    starting: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: AsyncEngine) -> None:
        raise ConnectionRefusedError("10.0.0.7:5432")

    monkeypatch.setattr(AsyncEngine, "connect", refuse)
    answer = await starting.get("/admin/v1/tenants", headers=bearer("demo-admin"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "registry_unavailable")
    assert "10.0" not in answer.text and answer.headers["retry-after"]
    monkeypatch.undo()
    assert (await starting.get("/admin/v1/tenants", headers=bearer("demo-admin"))).status_code == 200


async def test_the_servers_of_the_registry_are_listed(starting: httpx.AsyncClient) -> None:
    (server,) = (await starting.get("/admin/v1/servers", headers=bearer("demo-admin"))).json()["data"]
    assert len(server.pop("id")) == 32 and server.pop("version")
    assert server == {"url": "http://127.0.0.1:8000", "serves": False, "seen_at": None}
