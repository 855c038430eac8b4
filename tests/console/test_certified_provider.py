"""Sign-in at a certified provider, which insists on PKCE, in a browser."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from console_tab import Console
from page_server import PACKAGES
from playwright.sync_api import expect

from tests.unit.server.app.served import serve

PACKAGE = "oidc-provider@9.13.3"


@pytest.fixture(scope="module")
def packages() -> Path:
    """Where npm has installed the provider."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = PACKAGES.with_name("npm-oidc")
    if not (folder / "node_modules" / "oidc-provider").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
        subprocess.run([*command, PACKAGE], check=True, capture_output=True, timeout=120)
    return folder / "node_modules"


def test_a_person_signs_in(open_console: Callable[..., Console], packages: Path, tmp_path: Path) -> None:
    with socket.socket() as reserved:  # the provider must know our address before we know the provider's
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    callback = f"http://127.0.0.1:{port}/console/sign-in/callback"
    node = ["node", str(Path(__file__).with_name("oidc_provider.mjs")), str(packages), callback]
    with subprocess.Popen(node, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as provider:
        try:
            assert provider.stdout is not None
            issuer = provider.stdout.readline().strip()
            settings = {
                "public_url": "{url}",
                "sign_in_issuer": issuer,
                "sign_in_client_id": "loragate",
                "sign_in_client_secret": "a secret of the client",
                "sign_in_scopes": "openid email groups",
                "sign_in_roles": json.dumps(
                    [{"claim": "groups", "value": "llm-operators", "role": "operator"}]
                ),
            }
            with serve(tmp_path, port=port, **settings) as url:
                _sign_in(open_console(url=url))
        finally:
            provider.kill()


def _sign_in(console: Console) -> None:
    console.open()
    page = console.page
    page.get_by_role("link", name="Sign in", exact=True).click()
    page.locator("input[name=login]").fill("ann")
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#who")).to_have_text("operator ann@example.org")
    page.reload()
    expect(page.locator("#who")).to_have_text("operator ann@example.org")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()
