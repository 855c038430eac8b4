"""Engine names, operators' routes, and the fields of vLLM that no other file here is about."""

from __future__ import annotations

import httpx
import pytest

BODY = {
    "model": "acme-support",
    "messages": [{"role": "user", "content": "Hello!"}],
    "temperature": 0,
    "max_tokens": 12,
}


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "extra",
    [
        {"request_id": "fixed"},
        {"session_id": "x"},
        {"chat_template": "{{ 'owned' }}"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_trusted_fields_are_not_taken_from_a_body(http: httpx.Client, extra: dict[str, object]) -> None:
    plain = content(http.post("/v1/chat/completions", json=BODY))
    assert content(http.post("/v1/chat/completions", json=BODY | extra)) == plain


@pytest.mark.parametrize("name", ["X-Vllm-Priority", "X-Session-ID"])
def test_trusted_headers_are_not_taken_from_a_caller(http: httpx.Client, name: str) -> None:
    plain = content(http.post("/v1/chat/completions", json=BODY))
    assert content(http.post("/v1/chat/completions", json=BODY, headers={name: "7"})) == plain


def test_an_engine_name_is_no_model_name(http: httpx.Client) -> None:
    """The internal name of a resident adapter, even the caller's own, is as unknown as any other."""
    for name in ("globex/tools@1", "acme/support@1", "globex/tools", "../acme-support", "acme-support@01"):
        assert http.post("/v1/chat/completions", json=BODY | {"model": name}).status_code == 404


def test_an_operators_routes_are_closed_to_tenants(http: httpx.Client) -> None:
    for method, path in (
        ("GET", "/admin/v1/tenants"), ("POST", "/admin/v1/tenants"), ("GET", "/admin/v1/keys"),
        ("POST", "/admin/v1/keys"), ("GET", "/admin/v1/adapters"), ("DELETE", "/admin/v1/adapters/globex/tools"),
        ("POST", "/admin/v1/adapters/acme/support/promote"),
    ):  # fmt: skip
        response = http.request(method, path, json={"name": "x", "version": 1})
        assert response.status_code == 403, (method, path, response.text)
