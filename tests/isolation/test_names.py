"""Another tenant's names: not told in answers, errors, listings, headers or time."""

from __future__ import annotations

import random
import statistics
import time
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


def test_the_listing_has_ones_own_only(server: ServerProcess) -> None:
    for tenant, own, other in (("acme", "acme-support", "globex"), ("globex", "globex-tools", "acme")):
        listing = httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer demo-{tenant}"})
        assert own in listing.text and other not in listing.text


def test_the_time_of_a_404_tells_nothing(acme_http: httpx.Client) -> None:
    """Pairs in random order. Were one kind slower, it would lose nearly all of its pairs.

    With equal times the share of pairs in which the foreign name is slower has a standard deviation of
    0.5 / sqrt(200) = 0.035; the bounds lie seven of them away, so that noise does not fail this test, and a
    difference of one database look-up (a few hundred microseconds of about two milliseconds) does.
    """
    took_s: dict[str, list[float]] = {FOREIGN: [], MISSING: []}
    for name in (FOREIGN, MISSING) * 5:
        ask(acme_http, "/v1/chat/completions", name)  # warm caches and the connection
    for _ in range(200):
        for name in random.sample([FOREIGN, MISSING], 2):
            began = time.perf_counter()
            ask(acme_http, "/v1/chat/completions", name)
            took_s[name].append(time.perf_counter() - began)
    pairs = list(zip(took_s[FOREIGN], took_s[MISSING], strict=True))
    slower = sum(foreign > missing for foreign, missing in pairs) / len(pairs)
    medians = {name: statistics.median(times) for name, times in took_s.items()}
    print(f"foreign slower in {slower:.2f} of {len(pairs)} pairs; medians {medians}")
    assert 0.25 < slower < 0.75
    assert abs(medians[FOREIGN] - medians[MISSING]) < 0.25 * max(medians.values())


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
    acme_http: httpx.Client, method: str, path: str, body: dict[str, object] | None
) -> None:
    answer = acme_http.request(method, path, json=body)
    told = answer.text + "".join(f"{name}: {value}" for name, value in answer.headers.items())
    assert "globex" not in told and "tools" not in told


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
