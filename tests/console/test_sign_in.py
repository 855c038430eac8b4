"""People sign in to the console at an OpenID Connect provider, and out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from console_tab import HOLES, OPERATOR, PHONE, Console
from oidc_provider import OidcProvider, oidc_provider
from playwright.sync_api import expect

from tests.unit.server.app.served import serve

RULES = [
    {"claim": "groups", "value": "llm-operators", "role": "operator"},
    {"claim": "groups", "value": "auditors", "role": "read_only"},
]


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with oidc_provider() as made:
        yield made


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[str]:
    settings = {"public_url": "{url}", "sign_in_issuer": provider.url, "sign_in_client_id": "loragate"}
    secrets = {"sign_in_client_secret": "secret", "sign_in_roles": json.dumps(RULES)}
    with serve(tmp_path_factory.mktemp("served"), **settings, **secrets) as made:
        yield made


def sign_in(console: Console, person: str) -> None:
    console.page.get_by_role("link", name="Sign in", exact=True).click()
    console.page.locator("input[name=sub]").fill(person)
    console.page.get_by_role("button", name="Authorize").click()


def test_an_operator_signs_in_and_out(open_console: Callable[..., Console], url: str) -> None:
    console = open_console(url=url)
    console.open()
    page = console.page
    expect(page.get_by_role("button", name="Sign in with the key")).to_be_visible()
    assert console.violations() == []
    console.shoot("sign-in-person")
    sign_in(console, "ann")
    expect(page.locator("#who")).to_have_text("operator ann@example.org")
    assert page.evaluate("sessionStorage.length + document.cookie.length") == 0
    console.go("tenants")
    page.get_by_text("Add a tenant").click()
    page.get_by_label("Name").fill("initech")
    page.get_by_role("button", name="Add tenant").click()
    expect(page.locator('[data-tenant="initech"]')).to_be_visible()
    console.go("audit")
    expect(page.locator("tbody tr").first).to_contain_text("ann@example.org (operator)")
    page.reload()
    expect(page.locator("#who")).to_have_text("operator ann@example.org")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()
    page.get_by_label("Key").fill(OPERATOR)
    page.get_by_role("button", name="Sign in with the key").click()
    expect(page.locator("#who")).to_contain_text("operator demo-…")


def test_who_may_only_read_has_nothing_to_change(open_console: Callable[..., Console], url: str) -> None:
    console = open_console(PHONE, "dark", url)
    console.open()
    page = console.page
    sign_in(console, "rita")
    expect(page.locator("#who")).to_have_text("reads only rita@example.org")
    assert page.locator("#tabs a", has_text="Playground").count() == 0
    for view in ("overview", "tenants", "adapters", "prices", "budgets", "webhooks", "servers", "audit"):
        console.go(view)
        page.wait_for_load_state("networkidle")
        expect(page.locator("main")).not_to_contain_text(HOLES)
        for name in ("Add tenant", "Remove", "Set the price", "Promote", "Roll back", "Change", "Drain"):
            expect(page.locator("main").get_by_role("button", name=name, exact=True)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_somebody_without_a_role_reads_why(
    open_console: Callable[..., Console], url: str, scheme: str
) -> None:
    console = open_console(PHONE, scheme, url)
    console.expected_statuses = {403}
    console.open()
    sign_in(console, "eve")
    page = console.page
    expect(page.get_by_role("alert")).to_contain_text("nothing there gives you a role here")
    assert console.violations() == []
    console.shoot("sign-in-no-role")
    page.get_by_role("link", name="Back to the console").click()
    expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()
