"""One demo server for all tests that leave it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from process import ServerProcess, start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = start("--demo", data_dir=tmp_path_factory.mktemp("loragate"))
    try:
        running.wait_for("/ready", 200)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def client_for(server: ServerProcess, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def acme(server: ServerProcess) -> openai.OpenAI:
    return client_for(server, "demo-acme")


@pytest.fixture(scope="session")
def globex(server: ServerProcess) -> openai.OpenAI:
    return client_for(server, "demo-globex")


@pytest.fixture(scope="session")
def operator(server: ServerProcess) -> openai.OpenAI:
    return client_for(server, "demo-admin")


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.url, headers={"authorization": "Bearer demo-acme"}, timeout=60
    ) as client:
        yield client
