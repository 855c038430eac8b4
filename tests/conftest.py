"""One demo server per session, for all tests that leave it as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import settings
from otlp_collector import Collector
from server_process import ServerProcess, start

# CI looks at the same examples each time, so that a red run is about the change; developers draw new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
# `make test-fast` asks for this one: no database of examples, fewer of them where a test does not say how many.
settings.register_profile("fast", derandomize=True, deadline=None, max_examples=25)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Takes the spans of the session's server."""
    with Collector.listening() as listening:
        yield listening


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[ServerProcess]:
    running = start(
        "--demo",
        "--otlp-traces-endpoint",
        collector.url,
        "--read-timeout-s",
        "5",
        "--keep-feedback-messages",
        data_dir=tmp_path_factory.mktemp("loragate"),
    )
    try:
        running.wait_for("/ready", 200)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="session")
def client_for(server: ServerProcess) -> Callable:
    """The official client with a key, without its own retries."""
    import openai

    return lambda key: openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def acme(client_for: Callable):
    return client_for("demo-acme")


@pytest.fixture(scope="session")
def globex(client_for: Callable):
    return client_for("demo-globex")


@pytest.fixture(scope="session")
def operator(client_for: Callable):
    return client_for("demo-admin")


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """Plain HTTP with acme's key."""
    headers = {"authorization": "Bearer demo-acme"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client
