"""The console with 50 tenants and 200 adapters: short pages, search, paging, phones, themes, a server that goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console.many_tenants import ADAPTERS, FAILURES, TENANTS, fill
from console_tab import HOLES, OPERATOR, OPERATORS_VIEWS, PHONE, VIEWS, Console
from playwright.sync_api import expect

from tests.unit.server.app.served import serve

MOST_NODES = 2000
#: What a view has when its data is there.
SHOWN = {
    "overview": ".failures tr td",
    "activity": ".line-chart",
    "adapters": ".card.adapter",
    "playground": ".chip",
    "usage": "figure svg",
    "prices": "tbody tr",
    "budgets": ".spent",
    "feedback": ".empty",
    "tenants": ".managed",
    "webhooks": ".managed",
    "servers": "tbody tr",
    "audit": "tbody tr",
}
WIDE = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("many"), fill) as url:
        yield url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_is_short_and_fits(
    open_console: Callable[..., Console], many: str, viewport: dict[str, int], scheme: str
) -> None:
    console = open_console(viewport, scheme, many)
    console.enter(OPERATOR, "overview")
    page = console.page
    for view in (*VIEWS, *OPERATORS_VIEWS):
        console.go(view)
        expect(page.locator(SHOWN[view]).first).to_be_visible()
        expect(page.locator("main")).not_to_contain_text(HOLES)
        nodes = page.evaluate("document.querySelectorAll('*').length")
        assert nodes <= MOST_NODES, (view, nodes)
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, (view, over)
        assert console.violations() == [], view
        console.shoot(f"many-{view}-{viewport['width']}-{scheme}")


@pytest.fixture
def tab(open_console: Callable[..., Console], many: str) -> Console:
    return open_console(WIDE, url=many)


def test_adapters_are_searched_sorted_and_turned(tab: Console) -> None:
    tab.enter(OPERATOR, "adapters")
    page = tab.page
    cards = page.locator(".card.adapter")
    expect(cards).to_have_count(8)
    foot = page.locator(".list-foot")
    expect(foot).to_contain_text(f"1–8 of {ADAPTERS} adapters")
    first = cards.first.get_attribute("data-model")
    page.get_by_role("button", name="Next page of adapters").click()
    expect(foot).to_contain_text("9–16 of")
    assert cards.first.get_attribute("data-model") != first
    page.get_by_role("searchbox", name="Search adapters").fill("customer07 tools")
    expect(cards).to_have_count(1)
    expect(foot).to_contain_text(f"1 that match, of {ADAPTERS} adapters")
    page.get_by_role("searchbox", name="Search adapters").fill("support-197")
    expect(cards.locator("tbody tr")).to_have_count(6)  # the newest five, and the one that serves
    page.get_by_role("button", name="Show more of 30 versions").click()
    expect(cards.locator("tbody tr")).to_have_count(26)
    page.get_by_role("searchbox", name="Search adapters").fill("nothing like it")
    expect(foot).to_contain_text("None of 200 adapters matches.")


def test_a_version_is_pinned_and_one_without_traffic_removed(tab: Console) -> None:
    tab.enter(OPERATOR, "adapters")
    page = tab.page
    page.get_by_role("searchbox", name="Search adapters").fill("support-197")
    card = page.locator(".card.adapter")
    expect(card).to_have_count(1)
    first = card.locator("tbody tr", has_text="v1")
    expect(first.get_by_role("button", name="Remove")).to_have_count(0)  # it has all traffic
    model = card.get_attribute("data-model")
    card.get_by_role("button", name=f"Remove version 30 of {model}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(card.locator("tbody tr").first).to_contain_text("v29")
    page.get_by_role("searchbox", name="Search adapters").fill("acme-support")
    card.get_by_role("button", name="Pin version 1 of acme-support").click()
    expect(card).to_contain_text("pinned")
    card.get_by_role("button", name="Unpin version 1 of acme-support").click()
    expect(card.get_by_role("button", name="Pin version 1", exact=False)).to_be_visible()


def test_tenants_and_failures_are_found(tab: Console) -> None:
    tab.enter(OPERATOR, "overview")
    page = tab.page
    expect(page.locator(".tenant")).to_have_count(15)
    page.get_by_role("searchbox", name="Search tenants").fill("customer33")
    expect(page.locator(".tenant h3")).to_have_text(["customer33"])
    expect(page.get_by_text(f"1 that match, of {TENANTS} tenants")).to_be_visible()
    rows = page.locator(".failures tbody tr")
    expect(rows).to_have_count(15)
    expect(rows.first.locator("time")).to_have_text(re.compile(r"^today \d\d:\d\d:\d\d$"))
    page.get_by_role("searchbox", name="Search failures").fill("no-such-model-7")
    expect(rows).to_have_count(1)
    page.get_by_label("Cause").select_option("server")
    expect(page.get_by_text(f"None of {FAILURES} failures matches.")).to_be_visible()


def test_the_playground_offers_a_search_and_keeps_what_is_chosen(tab: Console) -> None:
    tab.enter(OPERATOR, "playground")
    page = tab.page
    expect(page.locator(".chip")).to_have_count(25)
    chosen = page.locator(".chip input:checked")
    before = chosen.input_value()
    page.get_by_role("searchbox", name="Search models").fill("customer12-tools")
    page.locator(".chip", has_text="customer12-tools").locator("input").check()
    page.get_by_role("searchbox", name="Search models").fill("")
    assert {box.input_value() for box in chosen.all()} >= {before}
    expect(chosen).to_have_count(2)


def test_a_failure_leads_to_its_request_and_the_charts_have_it(tab: Console) -> None:
    tab.enter(OPERATOR, "overview")
    page = tab.page
    page.locator(".failures tbody tr").first.get_by_role("link", name="Details").click()
    facts = page.locator(".request .facts")
    expect(facts).to_contain_text("404 model_not_found")
    expect(facts).to_contain_text(f"no-such-model-{FAILURES - 1}")
    expect(page.get_by_role("img", name="Requests per minute")).to_be_visible()
    page.get_by_label("Tenant or adapter").select_option(label="acme")
    page.get_by_label("Time", exact=True).select_option("day")
    name = re.compile(r"Requests per minute\. all: [\d.]+ now, at most [1-9]")
    expect(page.get_by_role("img", name=name)).to_be_visible()
    expect(page.locator("main")).not_to_contain_text(HOLES)
    tab.shoot("many-activity-request")
    tab.expected_statuses = {404}
    page.get_by_label("Request", exact=True).fill("nobody-has-it")
    page.get_by_role("button", name="Look up").click()
    expect(page.locator(".request .error")).to_contain_text("each server keeps the last 1,000 requests")


def test_a_customer_gets_limits_and_a_key_and_loses_it(tab: Console) -> None:
    tab.enter(OPERATOR, "tenants")
    page = tab.page
    page.get_by_text("Add a tenant").click()
    page.get_by_label("Name").fill("initech")
    page.get_by_label("Requests per minute").first.fill("60")
    page.get_by_label("KV cache guaranteed").first.fill("0.25")
    page.get_by_role("button", name="Add tenant").click()
    expect(page.get_by_text("25 % of the KV cache is guaranteed to tenants; 75 % is free.")).to_be_visible()
    page.get_by_role("searchbox", name="Search tenants").fill("initech")
    row = page.locator('[data-tenant="initech"]')
    expect(row).to_contain_text("KV 25 % to 100 % · 60 requests/min")
    row.get_by_role("button", name="Manage initech").click()
    row.get_by_label("Requests per minute").fill("")
    row.get_by_label("Weight").fill("2")
    row.get_by_role("button", name="Save").click()
    expect(row.locator(".hint").first).to_have_text("weight 2 · KV 25 % to 100 %")

    row.get_by_label("Note").fill("their app")
    row.get_by_label("Expires in days").fill("30")
    row.get_by_role("button", name="Make a key").click()
    secret = row.locator(".secret code")
    expect(secret).to_contain_text("lg-")
    first = secret.text_content()
    tab.shoot("many-tenants-key")
    row.get_by_role("button", name="Rotate their app").click()
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    expect(secret).not_to_have_text(first or "")
    expect(row.locator("tbody tr")).to_have_count(2)  # the old one works for another hour
    row.get_by_role("button", name="Revoke their app").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row.locator("tbody tr")).to_have_count(1)

    tab.go("audit")
    page.get_by_label("Search").fill("initech")
    expect(page.locator("tbody tr")).to_have_count(2)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0] == "at,actor,key_id,action,subject,details"
    assert [line.split(",")[3] for line in lines[1:]] == ["tenant.set", "tenant.add"]
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_role("button", name="Newer")).to_be_enabled()

    tab.go("tenants")
    page.get_by_role("searchbox", name="Search tenants").fill("initech")
    page.get_by_role("button", name="Manage initech").click()
    page.get_by_role("button", name="Remove this tenant").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator('[data-tenant="initech"]')).to_have_count(0)


def test_the_theme_is_switched_and_kept(tab: Console) -> None:
    tab.enter(OPERATOR, "overview")
    page = tab.page
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.get_by_role("button", name=re.compile("^Theme"))
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    expect(button).to_have_text("Theme: dark")
    assert page.evaluate(paper) == dark
    button.click()
    assert page.evaluate(paper) == light


def test_a_server_that_goes_and_an_engine_that_stalls_are_said(tab: Console) -> None:
    tab.enter(OPERATOR, "feedback")
    page = tab.page
    alert = page.locator("#banner")
    expect(page.locator("#state")).to_have_text("ready")
    expect(alert).to_be_hidden()
    stalled = {"state": "restarting", "stalled": True, "silent_s": 130.0, "warning": None}
    page.route("**/admin/v1/state", lambda route: route.fulfill(json=stalled))
    expect(alert).to_contain_text("The engine has stalled")
    silent = {"state": "ready", "stalled": False, "silent_s": 4.2, "warning": None}
    page.unroute("**/admin/v1/state")
    page.route("**/admin/v1/state", lambda route: route.fulfill(json=silent))
    expect(alert).to_have_text("The engine has not finished a step for 4 s.")
    page.unroute("**/admin/v1/state")
    expect(alert).to_be_hidden()
    page.route("**/admin/v1/state", lambda route: None)  # it takes the request and never answers
    expect(alert).to_contain_text("The server cannot be reached")
    expect(alert).to_contain_text("What is shown is from today")
    expect(page.locator("#state")).to_have_text("away")
    page.unroute("**/admin/v1/state")
    expect(alert).to_be_hidden()
