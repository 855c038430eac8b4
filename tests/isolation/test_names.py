"""Another tenant's names answer as names that do not exist, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from server_process import ServerProcess

MESSAGES = [{"role": "user", "content": "Hello!"}]
#: Headers that differ from answer to answer, whatever was asked.
_VARYING = {"date", "x-request-id", "openai-processing-ms"}
#: globex's own; nothing that acme asks may show it.
FOREIGN, MISSING = "globex-tools", "globex-tolls"


@pytest.fixture
def acme_http(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-acme"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def ask(client: httpx.Client, path: str, model: str) -> httpx.Response:
    """Name `model` in whichever way the route takes it."""
    bodies: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {"messages": MESSAGES},
        "/v1/completions": {"prompt": "Hello!"},
        "/v1/responses": {"input": "Hello!"},
        "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
        "/tokenize": {"prompt": "Hello!"},
        "/detokenize": {"tokens": [5]},
    }
    if path == "/v1/models":
        return client.get(f"/v1/models/{model}")
    return client.post(path, json={"model": model, **bodies[path]})


PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/tokenize",
    "/detokenize",
    "/v1/models",
]


@pytest.mark.parametrize("suffix", ["", "@1"], ids=["alias", "version"])
@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_name_answers_as_a_missing_one_byte_for_byte(
    acme_http: httpx.Client, path: str, suffix: str
) -> None:
    foreign = ask(acme_http, path, FOREIGN + suffix)
    missing = ask(acme_http, path, MISSING + suffix)
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content.replace(FOREIGN.encode(), b"NAME") == missing.content.replace(
        MISSING.encode(), b"NAME"
    )
    compared = [
        {name: value for name, value in answer.headers.items() if name not in _VARYING}
        for answer in (foreign, missing)
    ]
    assert compared[0] == compared[1]


def test_an_admin_of_one_tenant_cannot_tell_another_from_none(server: ServerProcess) -> None:
    operator = {"authorization": "Bearer demo-admin"}
    made = httpx.post(
        f"{server.url}/admin/v1/keys", json={"tenant": "acme", "role": "tenant_admin"}, headers=operator
    ).json()
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {made['secret']}"}) as client:
        for path in ("/admin/v1/adapters/{}/tools", "/admin/v1/usage?tenant={}"):
            foreign, missing = (client.get(path.format(name)) for name in ("globex", "globox"))
            assert foreign.status_code == missing.status_code == 404
            assert foreign.text.replace("globex", "NAME") == missing.text.replace("globox", "NAME")
        assert "globex" not in client.get("/admin/v1/adapters").text
    httpx.delete(f"{server.url}/admin/v1/keys/{made['id']}", headers=operator)
