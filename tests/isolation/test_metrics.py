"""What /metrics tells: counts, and with --protect-metrics nothing to tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from server_process import ServerProcess

from server.app.composition import open_server
from server.app.routes import make_app
from server.config.settings import Settings


def test_no_prompt_answer_key_or_id_is_in_it(http: httpx.Client, server: ServerProcess) -> None:
    secret, request_id = uuid4().hex, uuid4().hex
    body = {"model": "acme-support", "messages": [{"role": "user", "content": secret}], "max_tokens": 4}
    session = {"x-request-id": request_id, "x-session-id": uuid4().hex}
    answer = http.post("/v1/chat/completions", json=body | {"user": session["x-session-id"]}, headers=session)
    assert answer.status_code == 200
    told = httpx.get(f"{server.url}/metrics", timeout=30).text
    assert 'tenant="acme"' in told, "the request was counted"
    for private in (secret, request_id, session["x-session-id"], "demo-acme", "salt"):
        assert private not in told


@pytest.fixture
async def protected(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application without an engine, which none of this needs."""
    settings = Settings(demo=True, protect_metrics=True, data_dir=tmp_path)
    with ThreadPoolExecutor(1) as runner:
        async with open_server(settings, runner) as composed:
            transport = httpx.ASGITransport(make_app(composed))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client


async def test_when_protected_only_an_operator_reads_it(protected: httpx.AsyncClient) -> None:
    statuses = {}
    for key in ("", "demo-acme", "demo-globex", "demo-admin", "lg-wrong"):
        answer = await protected.get("/metrics", headers={"authorization": f"Bearer {key}"} if key else {})
        statuses[key] = answer.status_code
        assert answer.status_code == 200 or "acme" not in answer.text.replace(key or "\0", "")
    assert statuses == {"": 401, "demo-acme": 403, "demo-globex": 403, "demo-admin": 200, "lg-wrong": 401}
