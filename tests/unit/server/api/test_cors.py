"""Which pages may call what: preflights, answers, errors, and the routes that no page may call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.api.middleware.cors import CorsMiddleware
from server.config.settings import load
from server.errors import SettingsError
from tests.unit.server.app.composed import Composed, compose

APP, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}
BODY = {"model": "loragate-demo", "messages": [{"role": "user", "content": "Hello!"}]}
CLOSED = ("/admin/v1/tenants", "/console/", "/metrics", "/health", "/v1/load_lora_adapter", "/openapi.json")


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    async with compose(tmp_path_factory.mktemp("cors"), allowed_origins=[APP]) as made:
        yield made


def origin_of(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


async def test_an_allowed_page_calls_models_and_nothing_else(composed: Composed) -> None:
    page = {"origin": APP}
    asked = await composed.ask("OPTIONS", "/v1/chat/completions", None, headers=page | PREFLIGHT)
    assert asked.status_code == 200 and origin_of(asked) == APP
    assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    answer = await composed.ask("POST", "/v1/chat/completions", json=BODY, headers=page)
    assert answer.status_code == 200 and origin_of(answer) == APP and "Origin" in answer.headers["vary"]
    assert answer.headers["access-control-expose-headers"] == "*"
    for key, path, status in (
        ("wrong", "/v1/chat/completions", 401),
        ("demo-admin", "/v1/models/acme-x", 404),
        ("demo-admin", "/v1/completions", 400),
    ):
        refused = await composed.ask(
            "GET" if "models" in path else "POST", path, key, content=b"{", headers=page
        )
        assert refused.status_code == status and origin_of(refused) == APP, refused.text
    for path in CLOSED:
        for method in ("GET", "OPTIONS"):
            closed = await composed.ask(method, path, headers=page | PREFLIGHT)
            assert origin_of(closed) is None, path
    for headers in (answer.headers, asked.headers):
        assert "access-control-allow-credentials" not in headers


async def test_other_pages_get_no_permission(composed: Composed) -> None:
    page = {"origin": OTHER}
    asked = await composed.ask("OPTIONS", "/v1/chat/completions", None, headers=page | PREFLIGHT)
    assert asked.status_code == 400 and origin_of(asked) is None
    answer = await composed.ask("POST", "/v1/chat/completions", json=BODY, headers=page)
    assert answer.status_code == 200 and origin_of(answer) is None


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    async with compose(tmp_path) as composed:
        page = {"origin": APP}
        asked = await composed.ask("OPTIONS", "/v1/chat/completions", headers=page | PREFLIGHT)
        answer = await composed.ask("GET", "/v1/models", headers=page)
    assert asked.status_code == 405 and origin_of(asked) is origin_of(answer) is None


async def test_all_origins_are_allowed_without_credentials() -> None:
    async def app(scope: dict, receive: object, send: object) -> None:
        raise AssertionError("a preflight request is answered before")

    transport = httpx.ASGITransport(CorsMiddleware(app, origins=["*"]))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://loragate") as client:
        page = {"origin": OTHER, "cookie": "a=b"}
        asked = await client.options("/v1/models", headers=page | PREFLIGHT)
    assert origin_of(asked) == "*" and "access-control-allow-credentials" not in asked.headers


@pytest.mark.parametrize(
    "value", ["*", "https://app.example", '{"a": 1}', '["https://app.example/"]', '["app.example"]',
              '["https://App.example"]', '["https://app.example:443"]', "[1]", '["null"]'],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LORAGATE_ALLOWED_ORIGINS", value)
    with pytest.raises(SettingsError, match="--allowed-origins"):
        load({"demo": True})


@pytest.mark.parametrize("origins", [["*"], ["http://localhost:5173", "https://app.example"], []])
def test_origins(origins: list[str]) -> None:
    assert load({"demo": True, "allowed_origins": origins}).allowed_origins == origins
