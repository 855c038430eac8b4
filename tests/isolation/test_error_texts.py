"""No error, header or status page names another tenant."""

from __future__ import annotations

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (
            "POST",
            "/v1/chat/completions",
            {"model": "acme-support", "messages": MESSAGES, "max_tokens": 10**6},
        ),
        ("POST", "/v1/chat/completions", {"model": "acme-support", "messages": "no"}),
        ("POST", "/v1/chat/completions", {"model": "acme-support@9", "messages": MESSAGES}),
        ("POST", "/v1/completions", {"model": "acme-support", "prompt": "fox " * 20_000}),
        ("GET", "/admin/v1/tenants/globex", None),
        ("GET", "/admin/v1/usage?tenant=globex", None),
        ("DELETE", "/admin/v1/adapters/globex/tools", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/version", None),
        ("GET", "/ready", None),
    ],
)
def test_no_error_text_names_another_tenant(
    http: httpx.Client, method: str, path: str, body: dict[str, object] | None
) -> None:
    answer = http.request(method, path, json=body)
    told = answer.text + "".join(f"{name}: {value}" for name, value in answer.headers.items())
    assert "globex" not in told and "tools" not in told
