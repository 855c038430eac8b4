"""What a person at a terminal reads while the server starts, and when it is ready."""

from __future__ import annotations

import io
import re
import threading

import pytest

from benchmarks.startup.newcomer import requests_of
from server.app.banner import banner
from server.app.demo_seed import DEMO_KEYS
from server.app.start_progress import StartProgress
from server.config.settings import load

URL = "http://127.0.0.1:8000"


class Lines(io.StringIO):
    """A stream that says when it has got so many dots."""

    def __init__(self, dots: int) -> None:
        super().__init__()
        self._dots = dots
        self.enough = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count(".") >= self._dots:
            self.enough.set()
        return written


def test_each_stage_has_a_line_with_dots_and_its_time() -> None:
    out = Lines(dots=3)
    progress = StartProgress(out, interval_s=0.001)
    progress.stage("Reading")
    assert out.enough.wait(60)
    progress.stage("Loading")
    progress.stage("Loading")
    progress.end()
    progress.end()
    assert re.fullmatch(r"Reading \.{3,} \d+ s\nLoading \.* \d+ s\n", out.getvalue())


def test_nothing_is_written_where_nobody_looks() -> None:
    before = threading.active_count()
    progress = StartProgress(None)
    progress.stage("Reading")
    assert threading.active_count() == before and not progress.is_shown
    progress.end()


def test_the_banner_of_the_demo() -> None:
    text = banner(load({"demo": True}), URL, has_keys=True)
    assert f"{URL}/console" in text and "Ctrl-C stops" in text
    assert all(secret in text for secret in DEMO_KEYS)
    (request,) = requests_of(text)
    assert request.strip().startswith(f"curl -s {URL}/v1/chat/completions") and request.count("\n") == 3
    assert "Bearer demo-acme" in request and '"model": "acme-support"' in request


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_banner_of_a_model(has_keys: bool) -> None:
    text = banner(load({"model": "org/name"}), URL, has_keys=has_keys)
    assert ("loragate key add --role operator" in text) is not has_keys
    assert "demo" not in text and '"model": "org/name"' in text
