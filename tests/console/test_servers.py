"""The servers of a cluster in the console: what each holds, one that is silent, and a drain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from console_tab import DESK, HOLES, OPERATOR, PHONE, Console
from playwright.sync_api import Route, expect

from tests.unit.server.app.served import serve

READY: dict[str, Any] = {
    "id": "a1", "server": "f00", "url": "http://10.0.0.1:8001", "version": "0.1.0", "state": "ready", "in_flight": 3,
    "waiting": 1, "kv_use": 0.25, "slots": 8, "computing": ["acme-support"], "held": ["acme-support", "globex-tools"],
}  # fmt: skip
SILENT: dict[str, Any] = dict.fromkeys(READY) | {"id": "b2", "state": "unreachable"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("servers")) as url:
        yield url


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_an_operator_sees_every_server_and_drains_one(
    open_console: Callable[..., Console], url: str, viewport: dict[str, int], scheme: str
) -> None:
    """The front's answers are made up: a front takes a Ray cluster (`tests/cluster/test_ray_deploy.py`)."""
    console = open_console(viewport, scheme, url)
    page, drained = console.page, []

    def answer(route: Route) -> None:
        state = "draining" if drained else "ready"
        route.fulfill(
            status=200,
            content_type="application/json",
            body=json.dumps({"data": [READY | {"state": state}, SILENT]}),
        )

    def drain(route: Route) -> None:
        drained.append(route.request.method)
        route.fulfill(status=202, content_type="application/json", body='{"id": "f00", "in_flight": 3}')

    page.route("**/admin/v1/cluster", answer)
    page.route("**/admin/v1/cluster/a1/drain", drain)
    console.enter(OPERATOR, "servers")
    row = page.locator("tbody tr", has_text="a1")
    expect(row).to_contain_text("ready")
    for text in ("3 · 1 waiting", "25", "2 in memory · 1 of 8 slots in use", "0.1.0"):
        expect(row).to_contain_text(text)
    row.locator("summary").click()
    expect(row).to_contain_text("acme-support, globex-tools")
    silent = page.locator("tbody tr", has_text="b2")
    expect(silent).to_contain_text("unreachable")
    expect(silent.get_by_role("button")).to_have_count(0)
    expect(page.locator("main")).not_to_contain_text(HOLES)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert console.violations() == []
    console.shoot(f"servers-{viewport['width']}")
    row.get_by_role("button", name="Drain a1").click()
    page.get_by_role("button", name="Drain", exact=True).last.click()
    expect(page.locator("#notice")).to_contain_text("a1 finishes 3 requests and ends.")
    expect(row.get_by_role("button", name="Drain a1")).to_be_disabled()
    assert drained == ["POST"]


def test_without_a_front_there_is_nothing_to_drain(open_console: Callable[..., Console], url: str) -> None:
    console = open_console(DESK, "light", url)
    console.enter(OPERATOR, "servers")
    row = console.page.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("ready")
    expect(row.get_by_role("button")).to_have_count(0)
    expect(console.page.locator("main")).not_to_contain_text(HOLES)
