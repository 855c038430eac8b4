"""Who gets into the console, what it keeps and shows whom, by keyboard and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from console_tab import HOLES, OPERATOR, PHONE, VIEWS, Console, Shop
from playwright.sync_api import expect


def test_a_key_is_kept_in_this_tab_alone(console: Console, shop: Shop) -> None:
    console.open()
    console.sign_in(shop.admin_key)
    page = console.page
    expect(page.get_by_text(f"{shop.name} · tenant admin")).to_be_visible()
    assert shop.admin_key not in page.url and page.evaluate("localStorage.length") == 0
    assert page.context.cookies() == []
    page.reload()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_label("Key")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("wrong", 401, "not valid"),
        ("expired", 401, "not valid"),
        ("inference", 403, "tenant admin's or an operator's"),
    ],
)
def test_a_key_that_does_not_open(console: Console, shop: Shop, kind: str, status: int, told: str) -> None:
    console.expected_statuses = {status}
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    secret = {
        "wrong": lambda: "lg-not-a-key",
        "expired": lambda: shop.new_key("tenant_admin", expires_at=past)["secret"],
        "inference": lambda: shop.key,
    }[kind]()
    console.open()
    console.sign_in(secret)
    expect(console.page.get_by_role("alert")).to_contain_text(told)
    expect(console.page.get_by_label("Key")).to_be_focused()
    expect(console.page.locator("#top")).to_be_hidden()
    assert console.page.evaluate("sessionStorage.length") == 0


def test_a_key_that_ends_while_signed_in(console: Console, shop: Shop) -> None:
    made = shop.new_key("tenant_admin")
    console.enter(made["secret"], "overview")
    console.expected_statuses = {401}
    shop.admin("DELETE", f"/keys/{made['id']}")
    expect(console.page.get_by_role("alert")).to_have_text("The key is no longer valid. Sign in again.")
    expect(console.page.get_by_text(shop.name)).to_have_count(0)


def test_a_tenants_admin_sees_its_own_alone(console: Console, shop: Shop) -> None:
    assert shop.ask("demo-globex", model="globex-nothing").status_code == 404
    assert shop.ask("demo-globex", model="globex-tools").status_code == 200
    answers: list[str] = []
    console.page.on(
        "response", lambda answer: answers.append(answer.text()) if "/v1/" in answer.url else None
    )
    console.enter(shop.admin_key, "overview")
    expect(console.page.get_by_role("meter")).to_have_count(1)
    for view in VIEWS:
        console.go(view)
        console.page.wait_for_load_state("networkidle")
        expect(console.page.locator("main")).not_to_contain_text("globex")
    assert len(answers) > 6 and not [text for text in answers if "globex" in text or "acme" in text]


def test_keyboard_alone(console: Console, shop: Shop) -> None:
    console.open()
    page = console.page
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.type(shop.admin_key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.locator("#skip").focus()
    seen = []
    for _ in range(5):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen == ["Theme: system", "Sign out", "Overview", "Activity", "Adapters"]
    page.keyboard.press("Enter")
    card = page.locator(f'[data-model="{shop.model}"]')
    promote = card.get_by_role("button", name="Promote version 2")
    promote.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert list(shop.traffic()) == [1]
    controls = "[...document.querySelectorAll('input, select, textarea')]"
    unlabelled = f"{controls}.filter(e => !e.labels.length && !e.ariaLabel)"
    for view in VIEWS:
        console.go(view)
        page.wait_for_load_state("networkidle")
        assert page.evaluate(f"{unlabelled}.map(e => e.outerHTML)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(open_console: Callable[..., Console], scheme: str) -> None:
    console = open_console(PHONE, scheme)
    console.enter(OPERATOR, "overview")
    grounds = set()
    for view in VIEWS:
        console.go(view)
        console.page.wait_for_load_state("networkidle")
        assert console.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        expect(console.page.locator("body")).not_to_contain_text(HOLES)
        grounds.add(console.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        console.shoot(f"{view}-{scheme}-phone")
    assert grounds == {"rgb(251, 250, 247)" if scheme == "light" else "rgb(21, 21, 19)"}


def test_the_policy_bites(console: Console) -> None:
    """Markup from a string, inline styles and foreign addresses are refused by the browser itself."""
    console.open()
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "fetch('http://127.0.0.1:9/')",
        "new Promise((_, no) => { const s = document.createElement('script'); s.onerror = no; "
        "s.src = 'data:text/javascript,1'; document.body.append(s); })",
    ):
        with pytest.raises(Exception, match=r"Trusted|fetch|Event|JSHandle|TypeError"):
            console.page.evaluate(attempt)
    assert console.complaints, "the browser tells of each violation"
    console.complaints.clear()


def test_files_and_nothing_else(shop: Shop) -> None:
    with httpx.Client(base_url=shop.operator.base_url) as stranger:
        page = stranger.get("/console", follow_redirects=True)
        assert (
            page.url.path == "/console/" and "default-src 'none'" in page.headers["content-security-policy"]
        )
        assert "unsafe" not in page.headers["content-security-policy"]
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|style=|https?://", page.text)
        again = stranger.get("/console/", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304 and not again.content
        for name in ("nothing.js", "__init__.py", "..%2f..%2fpyproject.toml", "%2e%2e/app.py"):
            assert stranger.get(f"/console/{name}").status_code == 404, name
