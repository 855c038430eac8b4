"""The pictures of the pages about jobs: each job is done in the console, and shows what its page says.

`make screenshots` (CONSOLE_SCREENSHOTS=1) writes them to docs/images, with few colours so that they are small.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from console.many_tenants import _remember
from console_tab import OPERATOR, PHONE, Console
from PIL import Image
from playwright.sync_api import Locator, expect

import demo
from adapters.models import SYSTEM, BatchId, Tenant, Usage
from adapters.tenant_settings import TenantSettings
from server.app import demo_seed
from server.request.access_log import AccessRecord
from server.usage.request_log import LoggedRequest
from tests.unit.server.app.composed import Composed
from tests.unit.server.app.served import serve

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 1_000_000
#: Pixels around an element.
MARGIN = 16
SLOW = AccessRecord(
    "req-7f3a9c", "POST", "/v1/chat/completions", tenant="acme", key_id="k_0123456789abcdef", key_prefix="lg-demo",
    model="acme-support", adapter="support", version=1, stream=True, status=200, prompt_tokens=3120, cached_tokens=0,
    completion_tokens=212, finish_reason="stop", queue_ms=4210.5, ttft_ms=5630.2, run_ms=9480.0, total_ms=9484.1,
)  # fmt: skip


async def fill(composed: Composed) -> None:
    """Customers, an adapter with two versions, a day of traffic, one slow request, a month of usage with prices."""
    server = composed.server
    registry, adapters = server.registry, server.engine.adapters
    await demo_seed.add_adapters(registry, adapters)
    for name, settings in {
        "initech": TenantSettings(weight=2, kv_guarantee=0.3, rpm=600),
        "umbrella": TenantSettings(kv_limit=0.5, max_concurrency=8),
    }.items():
        await registry.tenants.add(Tenant(name, settings), by=SYSTEM)
    source = str(demo.ADAPTERS["acme-support"].path)
    await composed.make(
        "POST", "/admin/v1/adapters/acme/support/versions", json={"source": source, "promote": False}
    )
    _remember(server.observer.history)
    server.observer.log.note(SLOW)
    logged: LoggedRequest = server.observer.log._requests["acme"][SLOW.request_id]
    logged.options.update(temperature=0.2, max_tokens=400)
    await _bill(composed)


async def _bill(composed: Composed) -> None:
    registry = composed.server.registry
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    begins = now - timedelta(days=29)
    prices = {"prompt": "0.50", "cached": "0.10", "generated": "1.50"}
    await composed.make(
        "POST", "/admin/v1/prices", json={**prices, "valid_from": begins.isoformat(), "backdate": True}
    )
    rows = [
        Usage(
            tenant,
            adapter,
            1,
            begins + timedelta(hours=hour),
            requests,
            400 * requests,
            150 * requests,
            90 * requests,
        )
        for hour in range(29 * 24)
        for tenant, adapter, share in (("acme", "support", 9), ("globex", "tools", 5))
        if (requests := share * (40 + 35 * ((hour % 24) // 8 == 1) + hour % 7))
    ]
    await registry.usage.add(rows, BatchId("screenshots", 1))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("office")
    with serve(folder, fill, records=str(folder / "records")) as url:
        yield url


@pytest.fixture
def tab(open_console: Callable[..., Console], office: str) -> Console:
    return opened(open_console, office)


def opened(open_console: Callable[..., Console], url: str, **look: object) -> Console:
    console = open_console(**({"viewport": {"width": 1120, "height": 780}} | look))
    console.url = url
    return console


def picture(name: str, tab: Console, of: Locator | None = None) -> None:
    """Take a picture of a page's visible part, or of one element with a margin; keep it where it is asked for."""
    tab.page.evaluate("document.getElementById('notice').style.visibility = 'hidden'")
    clip = None
    if of is not None:
        box = of.bounding_box()
        assert box is not None
        left, top = tab.page.evaluate("[scrollX, scrollY]")
        clip = {
            "x": max(0, box["x"] + left - MARGIN),
            "y": max(0, box["y"] + top - MARGIN),
            "width": box["width"] + 2 * MARGIN,
            "height": box["height"] + 2 * MARGIN,
        }
    shot = tab.page.screenshot(clip=clip, full_page=clip is not None)  # type: ignore[arg-type]
    assert shot
    if os.environ.get("CONSOLE_SCREENSHOTS"):
        path = IMAGES / f"{name}.png"
        path.write_bytes(shot)
        with Image.open(path) as image:
            image.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def test_add_a_customer(tab: Console) -> None:
    tab.enter(OPERATOR, "tenants")
    page = tab.page
    page.get_by_text("Add a tenant").click()
    page.get_by_label("Name").fill("hooli")
    page.get_by_label("KV cache guaranteed").first.fill("0.2")
    page.get_by_label("Requests per minute").first.fill("300")
    picture("job-customer-limits", tab)
    page.get_by_role("button", name="Add tenant").click()
    page.get_by_role("button", name="Manage hooli").click()
    card = page.locator('[data-tenant="hooli"]')
    card.get_by_label("Role").select_option("tenant_admin")
    card.get_by_label("Note").fill("Hooli's team")
    card.get_by_role("button", name="Make a key").click()
    expect(card.locator(".keys")).to_contain_text("Hooli's team")
    secret = card.locator(".keys [role=status]").first
    secret.evaluate(
        "node => node.querySelectorAll('code').forEach(code => { code.textContent = 'lg-AbCd…'; })"
    )
    picture("job-customer-key", tab, card.locator(".keys"))


def test_ship_an_adapter(tab: Console) -> None:
    tab.enter(OPERATOR, "adapters")
    page = tab.page
    card = page.locator('[data-model="acme-support"]')
    slider = card.get_by_label("Share of version 2")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(card.locator("output")).to_have_text("v1 90 % · v2 10 %")
    card.get_by_role("button", name="Apply split").click()
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    expect(card.get_by_role("img")).to_have_attribute(
        "aria-label", "Traffic: version 1: 90 %, version 2: 10 %"
    )
    picture("job-adapter-split", tab, card)
    tab.go("audit")
    expect(page.locator("tbody tr").first).to_contain_text("alias.set")
    picture("job-adapter-changes", tab)


def test_find_out_why_it_was_slow(tab: Console) -> None:
    tab.enter(OPERATOR, "activity")
    page = tab.page
    page.get_by_label("Time", exact=True).select_option("day")
    expect(page.locator(".line-chart").first).to_be_visible()
    picture("job-slow-charts", tab, page.locator(".charts"))
    page.get_by_label("Request", exact=True).fill(SLOW.request_id)
    page.get_by_role("button", name="Look up").click()
    expect(page.locator(".times")).to_contain_text("waiting 4,211 ms")
    picture("job-slow-request", tab, page.locator(".request"))


def test_hand_the_months_bill_over(tab: Console) -> None:
    tab.enter(OPERATOR, "usage")
    page = tab.page
    page.locator("select").first.select_option(index=2)
    expect(page.locator("table").first).to_contain_text("acme")
    expect(page.locator("table").first).to_contain_text("USD")
    picture("job-bill-usage", tab, page.locator("table").first.locator(".."))


def test_look_at_it_on_a_phone(open_console: Callable[..., Console], office: str) -> None:
    console = opened(open_console, office, viewport=PHONE, scheme="dark")
    console.enter(OPERATOR, "activity")
    expect(console.page.locator(".line-chart").first).to_be_visible()
    picture("job-slow-phone", console)


def test_all_pictures_together_are_small() -> None:
    """They are in the repository for ever."""
    sizes = {file.name: file.stat().st_size for file in IMAGES.glob("*.png")}
    assert sum(sizes.values()) < MOST_BYTES, sizes
