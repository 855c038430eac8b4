"""The forms of a tenant beside its limits: decoding defaults from a preset, and records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from console_tab import OPERATOR, Console
from playwright.sync_api import expect

from tests.unit.server.app.served import serve


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("recording")
    with serve(folder, records=str(folder / "records")) as url:
        yield url


@pytest.fixture
def tab(open_console: Callable[..., Console], recording: str) -> Console:
    console = open_console()
    console.url = recording
    console.enter(OPERATOR, "tenants")
    console.page.get_by_role("button", name="Manage acme").click()
    return console


def stored(url: str) -> dict:
    answer = httpx.get(f"{url}/admin/v1/tenants/acme", headers={"authorization": f"Bearer {OPERATOR}"})
    return answer.raise_for_status().json()


def test_records_are_turned_on_and_off(tab: Console) -> None:
    page, told = tab.page, tab.page.locator("#notice")
    page.get_by_text("Records", exact=True).click()
    page.get_by_label("Share that is recorded").fill("0.25")
    page.get_by_label("Patterns to replace").fill("KD-\\d+\n(")
    tab.expected_statuses = {400}
    page.get_by_role("button", name="Save records").click()
    expect(page.get_by_text("is no regular expression")).to_be_visible()
    page.get_by_label("Patterns to replace").fill("KD-\\d+\n")
    page.get_by_role("button", name="Save records").click()
    expect(told).to_contain_text("Requests of acme are recorded.")
    expect(page.locator('[data-tenant="acme"]')).to_contain_text("25 % recorded")
    assert stored(tab.url)["records"] == {"share": 0.25, "patterns": ["KD-\\d+"]}
    page.get_by_text("Records", exact=True).click()
    expect(page.get_by_label("Patterns to replace")).to_have_value("KD-\\d+")
    page.get_by_label("Share that is recorded").fill("")
    page.get_by_role("button", name="Save records").click()
    expect(told).to_contain_text("Nothing of acme is recorded")
    assert stored(tab.url)["records"] is None


def test_a_preset_fills_in_the_decoding_defaults(tab: Console) -> None:
    page = tab.page
    page.get_by_text("Decoding defaults", exact=True).first.click()
    text = page.get_by_label("Decoding defaults")
    page.get_by_label("Fill in from preset").select_option("factual")
    expect(text).not_to_have_value("")
    page.get_by_role("button", name="Save defaults").click()
    expect(page.locator("#notice")).to_contain_text("Changed the decoding defaults of acme.")
    presets = httpx.get(f"{tab.url}/v1/presets", headers={"authorization": "Bearer demo-acme"}).json()["data"]
    assert stored(tab.url)["sampling_defaults"] == presets["factual"] != {}
    page.get_by_text("Decoding defaults", exact=True).first.click()
    text.fill("{no JSON")
    page.get_by_role("button", name="Save defaults").click()
    expect(page.get_by_text("The defaults are no JSON")).to_be_visible()
    tab.expected_statuses = {400}
    text.fill('{"temperature": "hot"}')
    page.get_by_role("button", name="Save defaults").click()
    expect(page.locator("form .error").filter(has_text="temperature")).to_be_visible()
    text.fill("")
    page.get_by_role("button", name="Save defaults").click()
    expect(page.locator("#notice")).to_contain_text("Changed the decoding defaults of acme.")
