"""A real Chromium on the session's server; whatever it complains about fails the test."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from server_process import ServerProcess

import demo

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "console"
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
#: The browser's own line about an answer that is no 2xx; only where a test means to get one.
_REFUSED = "Failed to load resource: the server responded with a status of "

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


@dataclass
class Console:
    """A tab of one's own, and what its page complains about."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    expected_statuses: set[int] = field(default_factory=set)

    def open(self, view: str = "") -> None:
        self.page.goto(f"{self.url}/console/{'#' + view if view else ''}")

    def sign_in(self, secret: str) -> None:
        self.page.get_by_label("Key").fill(secret)
        self.page.get_by_role("button", name="Sign in").click()

    def enter(self, secret: str, view: str) -> None:
        """Open a view, signed in."""
        self.open(view)
        self.sign_in(secret)
        expect(self.page.locator(f".view.{view}")).to_be_visible()

    def go(self, view: str) -> None:
        self.page.locator(f'#tabs a[href="#{view}"]').click()
        expect(self.page.locator(f".view.{view}")).to_be_visible()

    def shoot(self, name: str) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)

    def on_console(self, message: ConsoleMessage) -> None:
        expected = any(message.text.startswith(f"{_REFUSED}{status}") for status in self.expected_statuses)
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(message.text)


@pytest.fixture
def open_console(browser: Browser, server: ServerProcess) -> Iterator[Callable[..., Console]]:
    """Makes tabs that share nothing; the policy's violations and all errors of the console fail the test."""
    opened: list[tuple[BrowserContext, Console]] = []

    def make(viewport: dict[str, int] = DESK, scheme: str = "light") -> Console:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        console = Console(context.new_page(), server.url)
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


@dataclass
class Shop:
    """A tenant of this module's own, with an adapter `desk` of two versions, and an operator's hands."""

    name: str
    operator: httpx.Client
    admin_key: str = ""
    key: str = ""

    @property
    def model(self) -> str:
        return f"{self.name}-desk"

    def admin(self, method: str, path: str, **request: object) -> dict:
        response = self.operator.request(method, f"/admin/v1{path}", **request)  # type: ignore[arg-type]
        assert response.is_success, response.text
        return response.json() if response.content else {}

    def new_key(self, role: str, **fields: object) -> dict:
        return self.admin("POST", "/keys", json={"tenant": self.name, "role": role, **fields})

    def publish(self, source: Path, *, promote: bool) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(source, arcname=".")
        self.admin(
            "POST",
            f"/adapters/{self.name}/desk/versions?promote={str(promote).lower()}",
            content=archive.getvalue(),
            headers={"content-type": "application/x-tar"},
        )

    def traffic(self) -> dict[int, float]:
        """Version → weight, as the registry has it."""
        alias = self.admin("GET", f"/adapters/{self.name}/desk")["alias"]
        return {target["version"]: target["weight"] for target in alias["targets"]}

    def ask(self, secret: str | None = None, **changes: object) -> httpx.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {secret or self.key}"}
        return self.operator.post("/v1/chat/completions", json=body | changes, headers=headers)


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
