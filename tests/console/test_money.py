"""Prices, budgets and webhooks in the console: an operator changes them, a customer's admin reads its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from console.many_tenants import fill
from console_tab import HOLES, OPERATOR, Console
from playwright.sync_api import expect
from webhook_receiver import webhook_receiver

from tests.unit.server.app.served import serve


@pytest.fixture(scope="module")
def money(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("money"), fill, webhook_networks="127.0.0.0/8") as url:
        yield url


@pytest.fixture
def tab(open_console: Callable[..., Console], money: str) -> Console:
    return open_console({"width": 1440, "height": 900}, url=money)


@pytest.fixture
def operator(money: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {OPERATOR}"}
    with httpx.Client(base_url=f"{money}/admin/v1", headers=headers) as client:
        yield client


def test_a_price_is_set_changed_ended_and_removed(tab: Console) -> None:
    tab.enter(OPERATOR, "prices")
    page = tab.page
    page.get_by_text("Set a price", exact=True).click()
    assert tab.violations() == []
    page.get_by_label("Tenant").select_option("globex")
    page.get_by_label("Adapter").select_option("tools")
    page.get_by_label("Prompt").fill("a lot")
    page.get_by_label("Generated").fill("2.40")
    tab.expected_statuses = {400}
    page.get_by_role("button", name="Set the price").click()
    expect(page.locator("form .error")).to_contain_text("prompt is 'a lot'; set it to an amount")
    tab.expected_statuses = set()
    page.get_by_label("Prompt").fill("0.80")
    page.get_by_role("button", name="Set the price").click()
    expect(page.locator("#notice")).to_contain_text("The price for globex-tools holds from")
    page.get_by_role("searchbox", name="Search prices").fill("globex-tools")
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("0.8 USD")
    expect(row).to_contain_text("will hold")

    row.get_by_role("button", name="Change the price for globex-tools").click()
    page.get_by_label("Generated").fill("3")
    page.get_by_role("button", name="Set the price").click()
    expect(row).to_contain_text("3 USD")
    row.get_by_role("button", name="Remove the price for globex-tools").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)

    page.get_by_role("searchbox", name="Search prices").fill("customer01")
    expect(row).to_have_count(1)
    row.get_by_role("button", name="End the price for customer01").click()
    page.get_by_role("dialog").get_by_role("button", name="End").click()
    expect(row).to_have_count(2)
    expect(row.nth(1)).to_contain_text("ends")
    expect(page.locator("main")).not_to_contain_text(HOLES)


def test_budgets_of_a_tenant_and_a_key_are_set_and_removed(tab: Console, operator: httpx.Client) -> None:
    made = operator.post("/keys", json={"tenant": "acme", "role": "inference", "note": "their shop"}).json()
    tab.enter(OPERATOR, "budgets")
    page = tab.page
    search = page.get_by_role("searchbox", name="Search budgets")
    search.fill("customer10")
    rows = page.locator("table", has_text="Budgets in their present period").locator("tbody tr")
    expect(rows.filter(has_text="their app (key of customer10)")).to_contain_text("1.80 USD5.00 USD64 %")
    expect(page.locator(".lead")).to_contain_text(re.compile(r"^\d+\.\d\d USD spent since the month began"))

    page.get_by_text("Set a budget", exact=True).click()
    assert tab.violations() == []
    page.get_by_label("Tenant").select_option("acme")
    page.get_by_label("Budget in money").fill("250")
    page.get_by_role("button", name="Set the budget").click()
    search.fill("acme")
    expect(rows).to_contain_text(["250.00 USD"])
    page.get_by_label("Tenant").select_option("acme")
    page.get_by_label("Owner").select_option(made["account"])
    page.get_by_label("Budget in money").fill("25.50")
    page.get_by_label("Is for").select_option("day")
    page.get_by_role("button", name="Set the budget").click()
    of_key = rows.filter(has_text="their shop (key of acme)")
    expect(of_key).to_contain_text("day, until today")
    keys = {key["id"]: key["limits"] for key in operator.get("/keys?tenant=acme").json()["data"]}
    assert (keys[made["id"]]["money_budget"], keys[made["id"]]["budget_period"]) == ("25.5", "day")

    expect(page.locator("main")).not_to_contain_text(HOLES)

    of_key.get_by_role("button", name="Change the budget of their shop").click()
    page.get_by_label("Budget in money").fill("0")
    tab.expected_statuses = {400}
    page.get_by_role("button", name="Set the budget").click()
    expect(page.locator("form .error")).to_contain_text("money_budget is '0'")
    of_key.get_by_role("button", name="Remove the budget of their shop").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(of_key).to_have_count(0)


def test_a_webhook_is_added_tested_and_removed(tab: Console) -> None:
    tab.enter(OPERATOR, "webhooks")
    page = tab.page
    with webhook_receiver() as receiver:
        page.get_by_text("Add a webhook", exact=True).click()
        page.get_by_label("URL of the receiver").fill("ftp://hooks.example.com")
        tab.expected_statuses = {400}
        page.get_by_role("button", name="Add the webhook").click()
        expect(page.locator("form .error")).to_contain_text("https://")
        tab.expected_statuses = set()
        page.get_by_label("URL of the receiver").fill(receiver.url)
        page.get_by_label("Only what concerns").select_option("acme")
        expect(page.get_by_label("engine.failed")).to_be_disabled()
        page.get_by_role("button", name="Add the webhook").click()
        secret = page.locator(".secret code")
        expect(secret).to_contain_text("whsec_")
        receiver.secret = secret.text_content() or ""
        page.get_by_role("searchbox", name="Search webhooks").fill(receiver.url)
        hook = page.get_by_role("article", name=receiver.url)
        expect(hook).to_contain_text("acme · adapter.rolled_back, budget.threshold_reached")
        hook.get_by_role("button", name="Test").click()
        expect(hook.locator("tbody tr")).to_contain_text("webhook.test")
        expect(hook.locator("tbody tr")).to_contain_text("taken today")
        assert [body["type"] for body in receiver.bodies] == ["webhook.test"]
        assert tab.violations() == []
        tab.shoot("money-webhook-test")
    expect(page.locator("main")).not_to_contain_text(HOLES)
    hook.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(hook).to_have_count(0)


def test_a_customers_admin_reads_its_own(
    open_console: Callable[..., Console], money: str, operator: httpx.Client
) -> None:
    admin = operator.post(
        "/keys", json={"tenant": "customer03", "role": "tenant_admin", "note": "Ann"}
    ).json()
    console = open_console({"width": 390, "height": 844}, "dark", money)
    console.enter(admin["secret"], "prices")
    page = console.page
    assert page.locator("#tabs a", has_text="Webhooks").count() == 0
    expect(page.locator("tbody tr")).to_have_count(2)  # its own, and everybody's
    expect(page.get_by_role("button", name=re.compile("price"))).to_have_count(0)
    expect(page.get_by_text("Set a price")).to_have_count(0)
    console.shoot("money-prices-admin")
    console.go("budgets")
    expect(page.locator(".spent")).to_have_count(3)  # tokens and money of the tenant, money of its key
    expect(page.get_by_role("button", name="Change the budget of customer03")).to_have_count(0)
    expect(page.get_by_role("button", name="Change the budget of their app")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("customer04")
    console.shoot("money-budgets-admin")
