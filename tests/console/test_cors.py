"""Pages of other origins in a real browser: the allowed one uses the API, also with OpenAI's own package."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from page_server import PACKAGES, PageServer
from playwright.sync_api import Browser, Page
from server_process import ServerProcess

PACKAGE = "openai@6.49.0"
ASK = {"model": "acme-support", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
FETCH = """async ([url, key, body]) => {
    const answer = await fetch(url, {method: "POST", body: JSON.stringify(body),
        headers: {"authorization": `Bearer ${key}`, "content-type": "application/json", "x-stainless-lang": "js"}});
    const reader = answer.body.getReader(), pieces = [];
    for (let part = await reader.read(); !part.done; part = await reader.read())
        pieces.push(new TextDecoder().decode(part.value));
    return {status: answer.status, id: answer.headers.get("x-request-id"), pieces};
}"""
SDK = """async ([url, key, body]) => {
    const {default: OpenAI, AuthenticationError} = await import("/openai/index.mjs");
    const client = new OpenAI({baseURL: `${url}/v1`, apiKey: key, dangerouslyAllowBrowser: true, maxRetries: 0});
    const whole = await client.chat.completions.create(body);
    let text = "";
    for await (const chunk of await client.chat.completions.create({...body, stream: true}))
        text += chunk.choices[0]?.delta?.content ?? "";
    const models = (await client.models.list()).data.map(model => model.id);
    let refused = null;
    try { await new OpenAI({...client._options, apiKey: "wrong", dangerouslyAllowBrowser: true}).models.list(); }
    catch (error) { refused = {known: error instanceof AuthenticationError, code: error.code}; }
    return {whole: whole.choices[0].message.content, text, models, refused};
}"""


@pytest.fixture
def page_at(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens an empty page of an origin."""
    contexts = []

    def make(origin: str) -> Page:
        contexts.append(context := browser.new_context())
        page = context.new_page()
        page.goto(f"{origin}/")
        return page

    yield make
    for context in contexts:
        context.close()


def test_an_allowed_page_gets_answers_streams_and_errors(
    page_at: Callable[[str], Page], pages: PageServer, server: ServerProcess
) -> None:
    page = page_at(pages.origin)

    def ask(path: str, key: str = "demo-acme", **changes: Any) -> dict[str, Any]:
        return page.evaluate(FETCH, [server.url + path, key, ASK | changes])

    whole = ask("/v1/chat/completions")
    assert whole["status"] == 200 and whole["id"], "the page may read our headers"
    assert json.loads("".join(whole["pieces"]))["choices"][0]["message"]["content"]
    stream = ask("/v1/chat/completions", stream=True)
    assert stream["status"] == 200 and "".join(stream["pieces"]).endswith("data: [DONE]\n\n")
    for key, path, status, code in (
        ("wrong", "/v1/chat/completions", 401, "invalid_api_key"),
        ("demo-acme", "/v1/completions", 400, "invalid_request"),
    ):
        refused = ask(path, key)
        assert refused["status"] == status
        assert json.loads("".join(refused["pieces"]))["error"]["code"] == code
    with pytest.raises(Exception, match="Failed to fetch"):
        ask("/admin/v1/tenants", "demo-admin")


def test_a_page_of_another_origin_gets_nothing(
    page_at: Callable[[str], Page], pages: PageServer, server: ServerProcess
) -> None:
    page = page_at(pages.other_origin)
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate(FETCH, [f"{server.url}/v1/chat/completions", "demo-acme", ASK])


@pytest.mark.long
def test_openais_package_in_a_page(
    page_at: Callable[[str], Page], pages: PageServer, server: ServerProcess
) -> None:
    """With `dangerouslyAllowBrowser`, as a page without a server of its own uses it."""
    if not (PACKAGES / "node_modules" / "openai").is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        command = [
            npm,
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(PACKAGES),
            PACKAGE,
        ]
        PACKAGES.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    body = ASK | {"temperature": 0}
    told = page_at(pages.origin).evaluate(SDK, [server.url, "demo-acme", body])
    assert told["whole"] and told["text"] == told["whole"]
    assert told["models"] == ["loragate-demo", "acme-support"]
    assert told["refused"] == {"known": True, "code": "invalid_api_key"}
