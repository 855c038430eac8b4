"""A tab with the console in it, and a tenant for it to look at: what the browser tests share."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, expect

ARTEFACTS = Path(__file__).parents[1] / "artefacts" / "console"
#: What shows when a script prints what is not there.
HOLES = re.compile(r"\b(null|undefined|NaN)\b|\[object")
VIEWS = ("overview", "activity", "adapters", "playground", "usage", "prices", "budgets", "feedback")
#: Views that only an operator has.
OPERATORS_VIEWS = ("tenants", "webhooks", "servers", "audit")
OPERATOR = "demo-admin"
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
#: The browser's own line about an answer that is no 2xx; only where a test means to get one.
_REFUSED = "Failed to load resource: the server responded with a status of "


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
        self.page.get_by_label("Key").fill(secret, timeout=10_000)
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

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who see, hear or point otherwise; once nothing moves any more."""
        self.page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]

    def on_console(self, message: ConsoleMessage) -> None:
        if not self.page.url.startswith(self.url):
            return  # a provider's page, at which people sign in
        expected = any(message.text.startswith(f"{_REFUSED}{status}") for status in self.expected_statuses)
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(message.text)


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
