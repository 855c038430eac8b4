"""axe-core finds nothing in any view. `make test-accessibility` installs it; without it these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console.many_tenants import fill
from console.test_many import SHOWN, WIDE
from console_tab import OPERATOR, OPERATORS_VIEWS, PHONE, VIEWS, Console
from playwright.sync_api import expect

from tests.unit.server.app.served import serve

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make test-accessibility")
    with serve(tmp_path_factory.mktemp("many"), fill) as url:
        yield url


def violations(console: Console) -> list[str]:
    """What axe-core finds in the page as it is: the rule, and where."""
    console.page.evaluate(AXE.read_text())
    found = console.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_view_has_violations(
    open_console: Callable[..., Console], many: str, viewport: dict[str, int], scheme: str
) -> None:
    console = open_console(viewport, scheme)
    console.url = many
    console.open()
    expect(console.page.get_by_label("Key")).to_be_visible()
    assert violations(console) == []
    console.enter(OPERATOR, "overview")
    for view in (*VIEWS, *OPERATORS_VIEWS):
        console.go(view)
        expect(console.page.locator(SHOWN[view]).first).to_be_visible()
        assert violations(console) == [], view


def test_open_forms_have_none(open_console: Callable[..., Console], many: str) -> None:
    console = open_console(WIDE)
    console.url = many
    console.enter(OPERATOR, "tenants")
    page = console.page
    page.get_by_text("Add a tenant").click()
    page.get_by_role("button", name="Manage acme").click()
    for form in ("Decoding defaults", "Records"):
        page.get_by_text(form, exact=True).first.click()
    assert violations(console) == []
