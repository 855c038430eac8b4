"""People sign in at a real OpenID Connect provider: the whole code flow, and everything that must not pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider import EXPIRED, OidcProvider, oidc_provider

from server.auth.sign_in.cookies import csrf_token
from tests.unit.server.app.served import serve

RULES = [
    {"claim": "groups", "value": "llm-operators", "role": "operator"},
    {"claim": "email", "value": "ann@example.org", "role": "operator"},
    {"claim": "groups", "value": "acme-admins", "role": "tenant_admin", "tenant": "acme"},
    {"claim": "groups", "value": "auditors", "role": "read_only"},
    {"claim": "org", "value": "globex", "role": "read_only", "tenant_claim": "org"},
    {"claim": "org", "value": "gone", "role": "tenant_admin", "tenant_claim": "org"},
]
SETTINGS = {
    "public_url": "{url}",
    "sign_in_client_id": "loragate",
    "sign_in_client_secret": "secret",
    "sign_in_roles": json.dumps(RULES),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with oidc_provider() as made:
        yield made


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("served"), sign_in_issuer=provider.url, **SETTINGS) as made:
        yield made


class Browser(httpx.Client):
    """A browser with cookies; shows pages, and asks as the console does."""

    def begin(self) -> str:
        answer = self.get("/console/sign-in")
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def sign_in(self, provider: OidcProvider, person: str) -> httpx.Response:
        return self.get(provider.sign_in(self.begin(), person))

    def session(self) -> dict:
        return self.get("/console/session").json()

    def ask(self, method: str, path: str, **request: object) -> httpx.Response:
        token = {"x-csrf-token": self.session()["csrf_token"] or ""}
        return self.request(method, path, headers=token, **request)  # type: ignore[arg-type]


@pytest.fixture
def browser(url: str) -> Iterator[Browser]:
    with Browser(base_url=url, follow_redirects=False) as made:
        yield made


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_an_operator_signs_in_changes_something_and_signs_out(
    browser: Browser, provider: OidcProvider, url: str
) -> None:
    assert browser.session() == {"sign_in": True, "csrf_token": None}
    asked = parse_qs(urlsplit(location := browser.begin()).query)
    assert asked["code_challenge_method"] == ["S256"] and len(asked["code_challenge"][0]) == 43
    assert asked["redirect_uri"] == [f"{url}/console/sign-in/callback"] and asked["nonce"] and asked["state"]
    done = browser.get(provider.sign_in(location, "ann"))
    assert (done.status_code, done.headers["location"]) == (303, f"{url}/console/")
    cookies = SimpleCookie("; ".join(done.headers.get_list("set-cookie")))
    session = cookies["loragate-session"]
    assert session["httponly"] and session["samesite"] == "strict" and session["max-age"] == "28800"

    who = browser.ask("GET", "/admin/v1/whoami").json()
    assert (who["role"], who["tenant"], who["person"], who["read_only"]) == (
        "operator", None, "ann@example.org", False,
    )  # fmt: skip
    assert browser.ask("PATCH", "/admin/v1/tenants/globex", json={"rpm": 60}).status_code == 200
    (entry,) = browser.ask("GET", "/admin/v1/audit?subject=globex&limit=1").json()["data"]
    assert entry["actor"] == "ann@example.org (operator)" and entry["key_id"].startswith("s_")
    (entry,) = browser.ask("GET", "/admin/v1/audit?action=session.add&limit=1").json()["data"]
    assert entry["details"] == {"role": "operator", "tenant": None, "read_only": False}

    stolen = dict(browser.cookies)
    assert browser.ask("POST", "/console/sign-out").status_code == 204
    assert "loragate-session" not in browser.cookies
    with Browser(base_url=url, cookies=stolen) as thief:
        assert thief.session()["csrf_token"] is None
        answer = thief.get(
            "/admin/v1/whoami", headers={"x-csrf-token": csrf_token(stolen["loragate-session"])}
        )
        assert code(answer) == (401, "invalid_api_key")


def test_a_cookie_alone_is_refused(browser: Browser, provider: OidcProvider) -> None:
    """Another site can make a browser send the cookie, and cannot know the token."""
    browser.sign_in(provider, "ann")
    for method, path in (
        ("PATCH", "/admin/v1/tenants/globex"),
        ("GET", "/admin/v1/tenants"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/console/sign-out"),
    ):
        for headers in ({}, {"x-csrf-token": "0" * 64}, {"x-csrf-token": "ü".encode()}):
            answer = browser.request(method, path, headers=headers, json={"rpm": 1})  # type: ignore[arg-type]
            assert code(answer) == (403, "forbidden"), (method, path)
            assert "x-csrf-token" in answer.json()["error"]["message"]
    assert browser.session()["csrf_token"]


def test_a_key_counts_before_the_cookie(browser: Browser, provider: OidcProvider) -> None:
    browser.sign_in(provider, "ann")
    answer = browser.get("/admin/v1/whoami", headers={"authorization": "Bearer lg-wrong"})
    assert code(answer) == (401, "invalid_api_key")
    answer = browser.get("/admin/v1/whoami", headers={"authorization": "Bearer demo-admin"})
    assert (answer.json()["person"], answer.json()["key"]["prefix"]) == (None, "demo-")


def test_a_customers_admin_sees_and_changes_its_own(browser: Browser, provider: OidcProvider) -> None:
    browser.sign_in(provider, "bob")
    who = browser.ask("GET", "/admin/v1/whoami").json()
    assert (who["role"], who["tenant"]) == ("tenant_admin", "acme")
    assert code(browser.ask("GET", "/admin/v1/tenants/globex")) == (404, "tenant_not_found")
    assert code(browser.ask("POST", "/admin/v1/tenants", json={"name": "x"})) == (403, "forbidden")
    made = browser.ask("POST", "/admin/v1/keys", json={"role": "inference", "note": "app"})
    assert made.status_code == 201 and made.json()["tenant"] == "acme"
    assert code(browser.ask("POST", "/admin/v1/keys", json={"role": "operator"})) == (403, "forbidden")
    entries = browser.ask("GET", f"/admin/v1/audit?subject={made.json()['id']}").json()["data"]
    assert [entry["actor"] for entry in entries] == ["bob@acme.example (acme)"]
    chat = {"model": "acme-none", "messages": [{"role": "user", "content": "Hello!"}]}
    assert code(browser.ask("POST", "/v1/chat/completions", json=chat)) == (404, "model_not_found")


def test_the_tenant_comes_from_a_verified_claim_and_never_from_the_caller(
    browser: Browser, provider: OidcProvider
) -> None:
    callback = provider.sign_in(browser.begin(), "glo")
    browser.get(f"{callback}&tenant=acme&org=acme&role=operator")
    who = browser.ask("GET", "/admin/v1/whoami?tenant=acme").json()
    assert (who["role"], who["tenant"], who["read_only"]) == ("tenant_admin", "globex", True)


@pytest.mark.parametrize("person", ["rita", "glo"])
def test_who_may_only_read_changes_nothing_and_asks_no_model(
    browser: Browser, provider: OidcProvider, person: str
) -> None:
    browser.sign_in(provider, person)
    assert browser.ask("GET", "/admin/v1/keys").status_code == 200
    for method, path in (
        ("POST", "/admin/v1/keys"),
        ("PATCH", "/admin/v1/tenants/globex"),
        ("DELETE", "/admin/v1/tenants/globex"),
        ("POST", "/v1/chat/completions"),
    ):
        answer = browser.ask(method, path, **({} if method == "DELETE" else {"json": {"role": "inference"}}))
        assert code(answer) == (403, "forbidden"), path
        assert "change nothing" in answer.json()["error"]["message"]


def test_no_route_forgets_the_token_or_who_may_only_read(browser: Browser, provider: OidcProvider) -> None:
    """Of all routes: a cookie alone is refused, and so is what changes something to who may only read."""
    browser.sign_in(provider, "rita")
    paths = browser.get("/openapi.json").json()["paths"]
    routes = [(method.upper(), re.sub("{.*?}", "x", path)) for path in paths for method in paths[path]]
    open_to_all = {
        ("GET", path) for path in ("/health", "/ready", "/metrics", "/version", "/internal/replica")
    }
    asked = [route for route in routes if route not in open_to_all]
    assert len(asked) > 60
    for method, path in asked:
        assert code(browser.request(method, path)) == (403, "forbidden"), (method, path)
        if method != "GET":
            answer = browser.ask(method, path)
            assert code(answer) == (403, "forbidden") and "change nothing" in answer.text, (method, path)


def test_nobody_without_a_role_gets_in(browser: Browser, provider: OidcProvider) -> None:
    """Eve has Ann's address, unverified; Gus is in an organisation that is no tenant here."""
    answer = browser.sign_in(provider, "eve")
    assert code(answer) == (403, "no_role")
    assert "looked at: email, groups, org" in answer.json()["error"]["message"]
    assert browser.session()["csrf_token"] is None
    answer = browser.sign_in(provider, "gus")
    assert code(answer) == (403, "no_role") and "'gone', which does not exist" in answer.text
    page = browser.get(provider.sign_in(browser.begin(), "eve"), headers={"accept": "text/html"})
    assert page.status_code == 403 and "You are not signed in" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_wrong_state_and_another_browser_are_refused(
    browser: Browser, provider: OidcProvider, url: str
) -> None:
    callback = provider.sign_in(browser.begin(), "ann")
    wrong = callback.replace("state=", "state=x")
    assert code(browser.get(wrong)) == (400, "sign_in_failed")
    assert "wrong state" in browser.get(wrong).text
    with Browser(base_url=url) as victim:  # an attacker lends its own answer
        assert code(victim.get(callback)) == (400, "sign_in_failed")
        victim.begin()
        assert "wrong state" in victim.get(callback).text
    with Browser(base_url=url, cookies={"loragate-sign-in": "a.9999999999.b"}) as forger:
        assert code(forger.get(callback)) == (400, "sign_in_failed")
    assert "did not sign you in" in browser.get(callback.replace("code=", "error=")).text
    assert "wrong iss" in browser.get(f"{callback}&iss=https://evil.example").text
    assert code(browser.get(callback.replace("code=", "code=x"))) == (400, "sign_in_failed")
    assert browser.session()["csrf_token"] is None


def test_an_attempt_ends(browser: Browser, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.auth.sign_in.attempts.LIFETIME_S", -1)
    begun = browser.get("/console/sign-in")
    cookie = SimpleCookie(begun.headers["set-cookie"])["loragate-sign-in"].value
    callback = provider.sign_in(begun.headers["location"], "ann")
    answer = browser.get(callback, headers={"cookie": f"loragate-sign-in={cookie}"})
    assert code(answer) == (400, "sign_in_failed") and "longer than 10 minutes" in answer.text


def test_a_wrong_nonce_is_refused(browser: Browser, provider: OidcProvider) -> None:
    location = browser.begin()
    nonce = parse_qs(urlsplit(location).query)["nonce"][0]
    answer = browser.get(provider.sign_in(location.replace(nonce, "another"), "ann"))
    assert code(answer) == (400, "sign_in_failed") and "invalid_claim: nonce" in answer.text


def test_a_token_for_somebody_else_is_refused(browser: Browser, provider: OidcProvider) -> None:
    provider.client_id = "other"
    try:
        answer = browser.sign_in(provider, "ann")
    finally:
        provider.client_id = ""
    assert code(answer) == (400, "sign_in_failed") and "invalid_claim: aud" in answer.text


def test_an_expired_token_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with oidc_provider(**EXPIRED) as provider:
        folder = tmp_path_factory.mktemp("expired")
        with (
            serve(folder, sign_in_issuer=provider.url, **SETTINGS) as url,
            Browser(base_url=url) as browser,
        ):
            answer = browser.sign_in(provider, "ann")
    assert code(answer) == (400, "sign_in_failed") and "expired_token" in answer.text


def test_a_session_is_for_all_servers_and_ends_with_its_settings_and_its_tenant(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider
) -> None:
    """On a second server of the same registry it goes on; with other rules, or without its tenant, it does not."""
    folder = tmp_path_factory.mktemp("shared")
    settings = SETTINGS | {"sign_in_issuer": provider.url}
    others = json.dumps([{"claim": "groups", "value": "staff", "role": "read_only"}])
    with serve(folder, **settings) as url, Browser(base_url=url) as browser:
        browser.sign_in(provider, "bob")
        cookies = dict(browser.cookies)
        with serve(folder, **settings) as second, Browser(base_url=second, cookies=cookies) as moved:
            assert moved.ask("GET", "/admin/v1/whoami").json()["tenant"] == "acme"
        with (
            serve(folder, **settings | {"sign_in_roles": others}) as second,
            Browser(base_url=second, cookies=cookies) as moved,
        ):
            assert moved.session()["csrf_token"] is None
        operator = {"authorization": "Bearer demo-admin"}
        for adapter in httpx.get(f"{url}/admin/v1/adapters", headers=operator).json()["data"]:
            httpx.delete(f"{url}/admin/v1/adapters/{adapter['tenant']}/{adapter['name']}", headers=operator)
        assert httpx.delete(f"{url}/admin/v1/tenants/acme", headers=operator).status_code == 204
        assert browser.session()["csrf_token"] is None


def test_a_session_ends_with_its_time(
    browser: Browser, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.sign_in(provider, "ann")
    assert browser.session()["csrf_token"]
    later = datetime.now(UTC) + timedelta(hours=8, seconds=1)
    monkeypatch.setattr("server.auth.sign_in.sessions.utc_now", lambda: later)
    assert browser.session()["csrf_token"] is None
    token = {"x-csrf-token": csrf_token(browser.cookies["loragate-session"])}
    assert code(browser.get("/admin/v1/whoami", headers=token)) == (401, "invalid_api_key")


def test_an_operator_ends_the_sessions_of_a_person(
    browser: Browser, provider: OidcProvider, url: str
) -> None:
    browser.sign_in(provider, "glo")
    assert browser.session()["csrf_token"]
    operator = {"authorization": "Bearer demo-admin"}
    rows = httpx.get(f"{url}/admin/v1/sessions", headers=operator).json()["data"]
    (account,) = {row["account"] for row in rows if row["name"] == "glo@globex.example"}
    with Browser(base_url=url) as other:
        other.sign_in(provider, "bob")  # another tenant's admin
        seen = other.ask("GET", "/admin/v1/sessions").json()["data"]
        assert {row["tenant"] for row in seen} == {"acme"}
        assert other.ask("DELETE", f"/admin/v1/sessions?account={account}").json() == {"ended": 0}
    assert browser.session()["csrf_token"]
    ended = httpx.delete(f"{url}/admin/v1/sessions?account={account}", headers=operator).json()
    assert ended["ended"] >= 1 and browser.session()["csrf_token"] is None


def test_without_its_provider_the_server_works_by_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = SETTINGS | {"sign_in_issuer": "http://127.0.0.1:9"}
    with serve(tmp_path_factory.mktemp("away"), **settings) as url, Browser(base_url=url) as browser:
        for _ in range(2):
            answer = browser.get("/console/sign-in")
            assert code(answer) == (503, "provider_unavailable")
            assert "cannot be reached" in answer.text and "use a key" in answer.text
        assert browser.session() == {"sign_in": True, "csrf_token": None}
        answer = browser.get("/admin/v1/whoami", headers={"authorization": "Bearer demo-admin"})
        assert answer.status_code == 200


def test_without_sign_in_there_are_no_such_routes(tmp_path_factory: pytest.TempPathFactory) -> None:
    cookies = {"loragate-session": "x"}
    with serve(tmp_path_factory.mktemp("none")) as url, Browser(base_url=url, cookies=cookies) as browser:
        assert browser.session() == {"sign_in": False, "csrf_token": None}
        assert browser.get("/console/sign-in").status_code == 404
        assert code(browser.get("/admin/v1/whoami")) == (401, "invalid_api_key")
