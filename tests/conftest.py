"""One demo server per session, for all tests that leave it as it was."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Generator, Iterator
from functools import cache
from typing import Any

import httpx
import httpx._transports.default as httpx_transports
import log_capture
import pytest
from hypothesis import HealthCheck, Phase, settings
from otlp_collector import Collector
from page_server import PageServer
from server_process import ServerProcess, start
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# CI looks at the same examples each time, so that a red run is about the change; developers draw new ones.
# How long an example takes to draw depends on what else the machine does.
BUSY: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", max_examples=25, **BUSY)
settings.register_profile("ci", derandomize=True, max_examples=25, **BUSY)
# `make test-fast` uses this one: no database of examples, fewer of them where a test does not say how many.
settings.register_profile("fast", derandomize=True, max_examples=8, **BUSY)
# `make test-long` uses this one: new examples, all that a test asks for.
settings.register_profile("long", max_examples=100, **BUSY)
# `make mutants` uses this one: which example fails first is enough, a smaller one is not looked for.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
settings.register_profile("mutants", derandomize=True, max_examples=25, phases=NO_SHRINKING, **BUSY)
settings.load_profile("ci" if os.environ.get("CI") else "local")
log_capture.install()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect without the garbage collector, and exempt from it what is imported then.

    The imports make two million objects that live until the end; the collector would take a third of their time.
    Later it would look some 60 times at what the tests leave behind; so it looks more seldom.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the profile `long`, the random tests are long ones, too."""
    if settings.get_current_profile_name() == "long":
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.long)


class OneProcessPerFile(LoadFileScheduling):
    """As xdist's, but all of `tests/cluster` shares one process, and so its three servers."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/cluster" if file.startswith("tests/cluster/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneProcessPerFile | None:
    """What `--dist loadfile` means here."""
    return OneProcessPerFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def one_certificate_store() -> Iterator[None]:
    """httpx reads the machine's certificates for each client and each `httpx.get`: 30 ms, here once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx_transports, "create_ssl_context", cache(httpx_transports.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Takes the spans of the session's server."""
    with Collector.listening() as listening:
        yield listening


@pytest.fixture(scope="session")
def pages() -> Iterator[PageServer]:
    """Another origin, whose pages may call the session's server from a browser."""
    with PageServer.listening() as listening:
        yield listening


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, pages: PageServer
) -> Iterator[ServerProcess]:
    running = start(
        "--demo",
        "--otlp-traces-endpoint",
        collector.url,
        "--read-timeout-s",
        "5",
        "--keep-feedback-messages",
        "--allowed-origins",
        json.dumps([pages.origin]),
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
