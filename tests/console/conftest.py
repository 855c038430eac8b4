"""A real Chromium on the session's server; whatever it complains about fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import pytest
from console_tab import DESK, Console, Shop
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from server_process import ServerProcess

import demo

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Of the module, not of the session: it keeps an event loop running in this thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        message = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()


@pytest.fixture
def open_console(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Console]]:
    """Makes tabs that share nothing; the policy's violations and all errors of the console fail the test.

    Without a URL they are on the session's server, which starts an engine.
    """
    opened: list[tuple[BrowserContext, Console]] = []

    def make(viewport: dict[str, int] = DESK, scheme: str = "light", url: str = "") -> Console:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        console = Console(context.new_page(), url or request.getfixturevalue("server").url)
        console.page.on("console", console.on_console)
        console.page.on("pageerror", lambda error: console.complaints.append(str(error)))
        opened.append((context, console))
        return console

    yield make
    for context, _ in opened:
        context.close()
    assert [console.complaints for _, console in opened if console.complaints] == []


@pytest.fixture
def console(open_console: Callable[..., Console]) -> Console:
    return open_console()


@pytest.fixture(scope="module")
def shop(server: ServerProcess) -> Iterator[Shop]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as operator:
        made = Shop(f"c{uuid4().hex[:8]}", operator)
        made.admin(
            "POST", "/tenants", json={"name": made.name, "settings": {"kv_guarantee": 0.1, "kv_limit": 0.5}}
        )
        made.key = made.new_key("inference")["secret"]
        made.admin_key = made.new_key("tenant_admin")["secret"]
        first, second = list(demo.ADAPTERS.values())[:2]
        made.publish(first.path, promote=True)
        made.publish(second.path, promote=False)
        yield made
        made.admin("DELETE", f"/adapters/{made.name}/desk")
        made.admin("DELETE", f"/tenants/{made.name}")
