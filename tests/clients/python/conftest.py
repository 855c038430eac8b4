"""What each client is asked to do, and how it went. One file is one client; a missing client is left out."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

URL = os.environ.get("CLIENTS_URL", "")
LIMITED = os.environ.get("CLIENTS_LIMITED_KEY", "")
SUPPORT, TOOLS, BASE = "acme-support", "globex-tools", "loragate-demo"
WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER_QUESTION = "What is the weather in Paris?"


class Order(BaseModel):
    """An order. The demo model knows no orders: only a server that enforces the schema gets one out of it."""

    model_config = ConfigDict(extra="forbid")
    size: Literal["small", "large"]
    gift: bool


class AnyObject(BaseModel):
    """What JSON mode promises: an object."""

    model_config = ConfigDict(extra="allow")


@pytest.fixture
def asked() -> Any:
    """What the tests ask for; fixtures, because the clients' files import nothing of ours."""

    class Asked:
        url, v1 = URL, URL + "/v1"
        support, tools, base = SUPPORT, TOOLS, BASE
        acme, globex, limited = "demo-acme", "demo-globex", LIMITED
        hello = [{"role": "user", "content": "Hello!"}]
        weather = [{"role": "user", "content": WEATHER_QUESTION}]
        question = WEATHER_QUESTION
        as_json = "Write as JSON: day Thursday, item chairs"
        order, any_object, schema = Order, AnyObject, WEATHER_SCHEMA
        function = {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Current weather in a city.",
                "parameters": WEATHER_SCHEMA,
            },
        }
        order_function = {
            "type": "function",
            "function": {
                "name": "place_order",
                "description": "Place an order.",
                "parameters": Order.model_json_schema(),
            },
        }

    return Asked


@pytest.fixture
def occupied() -> Callable[[float], Any]:
    """`with occupied(seconds):` uses the only place of the limited tenant for so long, then leaves it."""

    @contextmanager
    def occupy(seconds: float) -> Iterator[None]:
        body = {"model": BASE, "prompt": "One", "max_tokens": 4000, "stream": True, "ignore_eos": True}
        headers = {"authorization": f"Bearer {LIMITED}", "content-type": "application/json"}
        request = urllib.request.Request(URL + "/v1/completions", json.dumps(body).encode(), headers)
        answer = urllib.request.urlopen(request, timeout=60)
        answer.readline()
        left = threading.Timer(seconds, answer.close)
        left.start()
        try:
            yield
        finally:
            left.join()
            time.sleep(0.3)

    return occupy


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One JSON line for each test: the client, the feature, how it went."""
    if report.when == "call" or report.outcome != "passed":
        file, _, name = report.nodeid.partition("::")
        line = {
            "client": Path(file).stem.removeprefix("client_"),
            "test": name.removeprefix("test_"),
            "outcome": report.outcome,
            "message": "" if report.passed else str(report.longrepr).strip().split("\n")[-1][:300],
        }
        with Path(os.environ["CLIENTS_RESULTS"]).open("a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
