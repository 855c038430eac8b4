"""The console as its users meet it, in a real browser, on a real server."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from console_tab import HOLES, OPERATOR, Console, Shop
from playwright.sync_api import expect

import demo
from adapters.training.data.reader import read_conversations


def test_a_bar_moves_under_load(console: Console, shop: Shop) -> None:
    console.enter(OPERATOR, "overview")
    console.page.get_by_role("searchbox", name="Search tenants").fill(shop.name)
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
    assert shop.ask(n=2, max_tokens=2000, ignore_eos=True, temperature=1.0).status_code == 200


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


def test_evaluations_and_the_condition_stand_with_the_adapter(console: Console, shop: Shop) -> None:
    path = f"/adapters/{shop.name}/desk"
    shop.admin("PUT", f"{path}/condition", json={"if": "exact > 1"})
    chats = next(iter(demo.ADAPTERS.values())).held_out.read_bytes()
    octets = {"content-type": "application/octet-stream"}
    begun = shop.admin("POST", f"{path}/versions/2/evaluations?turns=2", content=chats, headers=octets)
    console.enter(shop.admin_key, "adapters")
    card = console.page.locator(f'[data-model="{shop.model}"]')
    expect(card).to_contain_text("A version gets traffic only if exact > 1")
    while shop.admin("GET", f"{path}/evaluations/{begun['id']}")["state"] == "running":
        console.page.wait_for_timeout(200)
    card.get_by_text("Evaluations").click()
    expect(card.locator(".evaluations tbody tr")).to_contain_text("finished")
    console.expected_statuses = {409}
    card.get_by_role("button", name="Promote version 2").click()
    console.page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(console.page.locator("body")).to_contain_text("is not promoted")
    shop.admin("DELETE", f"{path}/condition")
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
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", slow)
    page.get_by_role("button", name="Upload").click()
    told = page.locator(".publish").get_by_role("status")
    expect(told).to_have_text(re.compile(r"^[1-9]\d? % of 1\.\d MiB$"))
    expect(page.get_by_role("progressbar", name="Upload")).to_be_visible()
    console.shoot("adapters-upload")
    line.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    expect(page.locator("#notice")).to_have_text(re.compile(f"^{shop.model} has version [34]\\.$"))
    newest = shop.admin("GET", f"/adapters/{shop.name}/desk")["versions"][-1]
    row = page.locator(f'[data-model="{shop.model}"] tbody tr', has_text=f"v{newest['number']}")
    expect(row.get_by_role("button", name="Promote")).to_be_enabled()
    assert newest["digest"] == shop.admin("GET", f"/adapters/{shop.name}/desk")["versions"][0]["digest"]
    assert list(shop.traffic()) == [1], "it was not to be promoted"


def test_an_upload_says_what_of_it_is_not_used(console: Console, shop: Shop, tmp_path: Path) -> None:
    console.enter(shop.admin_key, "adapters")
    page = console.page
    page.get_by_text("Publish a version").click()
    page.get_by_label("Adapter", exact=True).fill("extra")
    folder = next(iter(demo.ADAPTERS.values())).path
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    weights = [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
    page.get_by_label("Files").set_input_files([*weights, tmp_path / "chat_template.jinja"])
    page.get_by_role("button", name="Upload").click()
    told = "It brings a chat template of its own, which is not used"
    expect(page.locator(".publish").get_by_role("status")).to_contain_text(told)
    expect(page.locator(f'[data-model="{shop.name}-extra"] tbody tr')).to_contain_text(told)
    shop.admin("DELETE", f"/adapters/{shop.name}/extra")


def test_the_playground_asks_several_at_once(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "playground")
    page = console.page
    question = "Where is my order?"
    page.get_by_label("Prompt", exact=True).fill(question)
    models = (f"{shop.model}@1", f"{shop.model}@2")
    page.get_by_label(shop.model, exact=True).uncheck()
    for model in models:
        page.get_by_label(model).check()
    page.locator("summary", has_text="Decoding").first.click()
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


def test_a_good_chat_is_kept_and_downloaded_for_the_trainer(
    console: Console, shop: Shop, tmp_path: Path
) -> None:
    console.enter(shop.admin_key, "playground")
    page = console.page
    page.get_by_label("Prompt", exact=True).fill("Where is my order?")
    page.get_by_role("button", name="Run").click()
    pane = page.locator(f'.pane[data-model="{shop.model}"]')
    pane.get_by_label("keep this chat for training").check()
    pane.get_by_role("button", name="Good answer").click()
    expect(pane.get_by_text("Thank you.")).to_be_visible()
    said = page.get_by_label(f"Answer of {shop.model}").text_content()
    request_id = pane.locator(".id").text_content()
    console.go("feedback")
    expect(page.locator("tr", has_text=request_id or "none")).to_contain_text("with a chat of 2 turns")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download chats for training").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    (chat,) = read_conversations(file)
    assert [message["content"] for message in chat.messages] == ["Where is my order?", said]


def test_the_playground_tells_what_was_refused(console: Console, shop: Shop) -> None:
    console.enter(shop.admin_key, "playground")
    page = console.page
    page.get_by_label("Prompt", exact=True).fill("Hello!")
    page.locator("summary", has_text="Decoding").first.click()
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


def test_the_usage_chart_has_what_the_ledger_has(console: Console, shop: Shop) -> None:
    assert shop.ask().status_code == 200
    console.enter(shop.admin_key, "usage")
    row = console.page.locator("tbody tr", has_text="desk@1")
    expect(row).to_be_visible()
    expect(console.page.locator(".chart svg")).to_have_attribute(
        "aria-label", re.compile(r"Tokens per hour, [1-9]")
    )
    console.shoot("usage")
