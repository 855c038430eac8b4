"""The page tells within three seconds that the engine makes no progress, or that the server is gone: real ones."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from console_tab import OPERATOR, Console, Shop
from playwright.sync_api import expect
from server_process import ServerProcess

pytestmark = pytest.mark.alone  # it measures times

#: What docs/console.md promises, and the delays of a busy machine.
SAID_WITHIN_S = 3.0
_BUSY_S = 0.5


@contextmanager
def stopped(pid: int) -> Iterator[float]:
    """A process that does not run; gives the time at which it was stopped."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def tab(console: Console) -> Console:
    console.enter(OPERATOR, "overview")
    expect(console.page.locator("#state")).to_have_text("ready")
    expect(console.page.locator("#banner")).to_be_hidden()
    return console


def said(tab: Console, text: str, since: float) -> float:
    """Wait until the banner says this; returns the seconds that it took."""
    expect(tab.page.locator("#banner")).to_contain_text(text)
    took_s = time.monotonic() - since
    print(f"said_s {took_s:.2f}")
    assert took_s <= SAID_WITHIN_S + _BUSY_S
    return took_s


@pytest.mark.parametrize("works", [False, True], ids=["idle", "at work"])
def test_a_stopped_engine_is_said(tab: Console, server: ServerProcess, shop: Shop, works: bool) -> None:
    engine = server.child("EngineCore").pid
    asking = threading.Thread(target=lambda: shop.ask(max_tokens=300, ignore_eos=True))
    if works:
        asking.start()
        time.sleep(0.5)
    with stopped(engine) as since:
        said(tab, "The engine has not finished a step for", since)
        tab.shoot("engine-stopped")
    expect(tab.page.locator("#banner")).to_be_hidden()
    expect(tab.page.locator("#state")).to_have_text("ready")
    if works:
        asking.join(60)


def test_a_server_that_is_gone_is_said_with_the_time_of_what_is_shown(
    tab: Console, server: ServerProcess
) -> None:
    with stopped(server.pid) as since:
        said(tab, "The server cannot be reached", since)
        expect(tab.page.locator("#banner")).to_contain_text("What is shown is from today")
        expect(tab.page.locator("#state")).to_have_text("away")
    expect(tab.page.locator("#banner")).to_be_hidden()
