"""The console as its users meet it, in a real browser, on a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from console_tab import PHONE, Console, Shop
from playwright.sync_api import expect

import demo

#: What shows when a script prints what is not there.
HOLES = re.compile(r"\b(null|undefined|NaN)\b|\[object")
VIEWS = ("overview", "adapters", "playground", "usage", "feedback")
OPERATOR = "demo-admin"


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


def test_a_bar_moves_under_load(console: Console, shop: Shop) -> None:
    console.enter(OPERATOR, "overview")
    row = console.page.locator(f'.tenant[data-tenant="{shop.name}"]')
    bar = row.get_by_role("meter")
    expect(bar).to_have_attribute("aria-valuenow", "0")
    loading = threading.Thread(target=load, args=(shop,))
    loading.start()
    try:
        expect(bar).not_to_have_attribute("aria-valuenow", "0")
        expect(row.locator(".counts")).to_contain_text("2 running")
        assert bar.get_attribute("aria-valuetext") == row.locator(".blocks").text_content()
        assert row.locator(".used").evaluate("bar => bar.getBoundingClientRect().width") > 0
        console.shoot("overview-under-load")
    finally:
        loading.join(60)
    expect(bar).to_have_attribute("aria-valuenow", "0")


def load(shop: Shop) -> None:
    """Two long answers; both run until they are long enough."""
    assert shop.ask(n=2, max_tokens=300, ignore_eos=True, temperature=1.0).status_code == 200


def test_split_promote_and_roll_back_ask_first(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "adapters")
    page = console.page
    card = page.locator(f'[data-model="{shop.model}"]')
    dialog = page.get_by_role("dialog")
    slider = card.get_by_label("Share of version 2")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(card.locator("output")).to_have_text("v1 90 % · v2 10 %")
    card.get_by_role("button", name="Apply split").click()
    expect(dialog).to_contain_text("v1 90 % · v2 10 %")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert shop.traffic() == {1: 1.0}
    card.get_by_role("button", name="Apply split").click()
    dialog.get_by_role("button", name="Split").click()
    expect(card.get_by_role("img")).to_have_attribute(
        "aria-label", "Traffic: version 1: 90 %, version 2: 10 %"
    )
    assert shop.traffic() == {1: 90, 2: 10}
    expect(page.locator("main")).not_to_contain_text(HOLES)
    console.shoot("adapters-split")
    card.get_by_role("button", name="Promote version 2").click()
    dialog.get_by_role("button", name="Promote").click()
    expect(card.get_by_role("img")).to_have_attribute("aria-label", "Traffic: version 2: 100 %")
    assert list(shop.traffic()) == [2]
    card.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(card.get_by_role("img")).to_have_attribute("aria-label", "Traffic: version 1: 100 %")
    assert list(shop.traffic()) == [1]


def test_upload_of_the_trainers_files(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "adapters")
    page = console.page
    page.get_by_text("Publish a version").click()
    page.get_by_label("Adapter", exact=True).fill("desk")
    folder = next(iter(demo.ADAPTERS.values())).path
    page.get_by_label("Files").set_input_files(folder / "adapter_config.json")
    console.expected_statuses = {400}
    page.get_by_role("button", name="Upload").click()
    expect(page.locator(".publish .error")).to_contain_text("adapter_model.safetensors")
    console.expected_statuses = set()
    page.get_by_label("Files").set_input_files([*folder.iterdir()])
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#notice")).to_have_text(re.compile(f"^{shop.model} has version [34]\\.$"))
    newest = shop.admin("GET", f"/adapters/{shop.name}/desk")["versions"][-1]
    row = page.locator(f'[data-model="{shop.model}"] tbody tr', has_text=f"v{newest['number']}")
    expect(row.get_by_role("button", name="Promote")).to_be_enabled()
    assert newest["digest"] == shop.admin("GET", f"/adapters/{shop.name}/desk")["versions"][0]["digest"]
    assert list(shop.traffic()) == [1], "it was not to be promoted"


def test_the_playground_asks_several_at_once(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "playground")
    page = console.page
    question = "Where is my order?"
    page.get_by_label("Prompt").fill(question)
    models = (f"{shop.model}@1", f"{shop.model}@2")
    page.get_by_label(shop.model, exact=True).uncheck()
    for model in models:
        page.get_by_label(model).check()
    page.get_by_text("Decoding", exact=True).click()
    page.get_by_label("Preset").select_option("factual")
    page.get_by_label("max_tokens").fill("24")
    page.get_by_text("more options").click()
    page.get_by_label("repetition_penalty").fill("1.2")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".ask [role=status]")).to_have_text(" · ".join(f"{model}: done" for model in models))
    for model in models:
        same = shop.ask(
            model=model, preset="factual", max_tokens=24, repetition_penalty=1.2,
            messages=[{"role": "user", "content": question}],
        ).json()  # fmt: skip
        shown = page.get_by_label(f"Answer of {model}")
        assert shown.text_content() == same["choices"][0]["message"]["content"]
        tokens = same["usage"]["completion_tokens"]
        expect(page.locator(f'.pane[data-model="{model}"] .figures-line')).to_contain_text(
            f"+ {tokens} tokens"
        )
    expect(page.locator("main")).not_to_contain_text(HOLES)
    console.shoot("playground")

    second = page.locator(f'.pane[data-model="{models[1]}"]')
    request_id = second.locator(".id").text_content()
    second.get_by_role("button", name="Bad answer").click()
    expect(second.get_by_text("Thank you.")).to_be_visible()
    console.go("feedback")
    row = page.locator("tr", has_text=request_id or "none")
    expect(row).to_contain_text("desk@2")
    expect(row).to_contain_text("bad")
    console.shoot("feedback")


def test_the_playground_tells_what_was_refused(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "playground")
    page = console.page
    page.get_by_label("Prompt").fill("Hello!")
    page.get_by_text("Decoding", exact=True).click()
    page.get_by_label("temperature").fill("9")
    console.expected_statuses = {400}
    page.get_by_role("button", name="Run").click()
    told = page.locator(".pane").get_by_role("alert")
    expect(told).to_contain_text("temperature")
    found = re.search(r"request (\w+)\)", told.text_content() or "")
    assert found
    console.go("overview")
    failure = page.locator(".failures tr", has_text=found[1])
    expect(failure).to_contain_text(shop.model)
    expect(failure).to_contain_text("400")


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
    page.keyboard.type(shop.admin_key)  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.locator("#skip").focus()
    seen = []
    for _ in range(3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen == ["Sign out", "Overview", "Adapters"]
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


def test_the_usage_chart_has_what_the_ledger_has(console: Console, shop: Shop) -> None:
    assert shop.ask().status_code == 200
    console.enter(shop.admin_key, "usage")
    row = console.page.locator("tbody tr", has_text="desk@1")
    expect(row).to_be_visible()
    expect(console.page.locator(".chart svg")).to_have_attribute(
        "aria-label", re.compile(r"Tokens per hour, [1-9]")
    )
    console.shoot("usage")


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
