"""Who is faster than the server's answers gets what was meant: the lists of a page arrive after the click."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from console.many_tenants import fill
from console_tab import OPERATOR, Console
from playwright.sync_api import Page, Route, expect

from tests.unit.server.app.served import serve


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("slow"), fill) as url:
        yield url


@pytest.fixture
def tab(open_console: Callable[..., Console], many: str) -> Console:
    return open_console({"width": 1440, "height": 900}, url=many)


@contextmanager
def held(page: Page, path: str) -> Iterator[None]:
    """Answers to requests for this path wait until the end of the block."""
    waiting: list[Route] = []
    pattern = f"**/{path}"
    page.route(pattern, lambda route: waiting.append(route))
    yield
    assert waiting, f"nothing asked for {path}"
    page.unroute(pattern)  # lets those go on that wait


@pytest.mark.parametrize("path", ["admin/v1/adapters", "v1/presets", "admin/v1/options"])
def test_run_waits_for_what_the_playground_loads(tab: Console, path: str) -> None:
    page = tab.page
    with held(page, path):
        tab.enter(OPERATOR, "playground")
        page.get_by_label("Prompt", exact=True).fill("Where is my order?")
        page.get_by_role("button", name="Run").click()
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        expect(page.locator(".pane")).to_have_count(0)
    expect(page.locator(".pane")).to_have_count(1)
    expect(page.get_by_role("button", name="Good answer")).to_have_count(1)


def test_a_price_is_changed_for_its_tenant_and_not_for_everybody(tab: Console) -> None:
    page = tab.page
    with held(page, "admin/v1/tenants"):
        tab.enter(OPERATOR, "prices")
        page.get_by_role("searchbox", name="Search prices").fill("customer02")
        page.get_by_role("button", name="Change the price for customer02").click()
        page.get_by_label("Prompt").wait_for()
    expect(page.get_by_label("Prompt")).to_be_focused()
    expect(page.get_by_label("Tenant")).to_have_value("customer02")


def test_a_budget_is_changed_for_its_tenant(tab: Console) -> None:
    page = tab.page
    with held(page, "admin/v1/tenants"):
        tab.enter(OPERATOR, "budgets")
        page.get_by_role("searchbox", name="Search budgets").fill("customer03")
        page.get_by_role("button", name="Change the budget of customer03").first.click()
        page.get_by_label("Budget in money").wait_for()
    expect(page.get_by_label("Budget in money")).to_be_focused()
    expect(page.get_by_label("Tenant")).to_have_value("customer03")
