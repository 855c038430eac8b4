"""What a caller puts into bodies and headers moves nobody, itself included."""

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
        {"priority": -1000},
        {"vllm_xargs": {"loragate": {"tenant": "globex", "policy": {"weight": 1000}}}},
        {"vllm_xargs": {"session_id": "x"}},
        {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [1]}},
        {"cache_salt": "x"},
        {"request_id": "fixed"},
        {"session_id": "x"},
        {"chat_template": "{{ 'owned' }}"},
        {"data_parallel_rank": 3},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_trusted_fields_are_not_taken_from_a_body(http: httpx.Client, extra: dict[str, object]) -> None:
    plain = content(http.post("/v1/chat/completions", json=BODY))
    assert content(http.post("/v1/chat/completions", json=BODY | extra)) == plain


@pytest.mark.parametrize("name", ["X-data-parallel-rank", "X-Vllm-Priority", "X-Session-ID"])
def test_trusted_headers_are_not_taken_from_a_caller(http: httpx.Client, name: str) -> None:
    plain = content(http.post("/v1/chat/completions", json=BODY))
    assert content(http.post("/v1/chat/completions", json=BODY, headers={name: "7"})) == plain


def test_an_engine_name_is_no_model_name(http: httpx.Client) -> None:
    """The internal name of a resident adapter, even the caller's own, is as unknown as any other."""
    for name in ("globex/tools@1", "acme/support@1", "globex/tools", "../acme-support", "acme-support@01"):
        assert http.post("/v1/chat/completions", json=BODY | {"model": name}).status_code == 404


def test_stored_responses_do_not_exist(http: httpx.Client) -> None:
    made = http.post("/v1/responses", json={"model": "acme-support", "input": "Hello!", "store": True})
    assert made.status_code == 200
    headers = {"authorization": "Bearer demo-globex"}
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        url = f"/v1/responses/{made.json()['id']}{path}"
        assert http.request(method, url, headers=headers).status_code == 404
    body = {"model": "globex-tools", "input": "And?", "previous_response_id": made.json()["id"]}
    follow_up = http.post("/v1/responses", json=body, headers=headers)
    assert follow_up.status_code in (400, 404), follow_up.text


def test_an_operators_routes_are_closed_to_tenants(http: httpx.Client) -> None:
    for method, path in (
        ("GET", "/admin/v1/tenants"), ("POST", "/admin/v1/tenants"), ("GET", "/admin/v1/keys"),
        ("POST", "/admin/v1/keys"), ("GET", "/admin/v1/adapters"), ("DELETE", "/admin/v1/adapters/globex/tools"),
        ("POST", "/admin/v1/adapters/acme/support/promote"),
    ):  # fmt: skip
        response = http.request(method, path, json={"name": "x", "version": 1})
        assert response.status_code == 403, (method, path, response.text)
