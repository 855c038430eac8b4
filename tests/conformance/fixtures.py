"""Stands in for vLLM's `tests/conftest.py`: a key for each request, and the demo's adapter for its LoRA files."""

from __future__ import annotations

import os

import httpx
import pytest
import requests
from vllm.transformers_utils import repo_utils

import demo

_send = requests.Session.request


def add_key(url: str, headers: httpx.Headers) -> None:
    """Acme's key, if the request goes to the server and has none."""
    if url.startswith(os.environ["CONFORMANCE_URL"]) and not {"authorization", "x-api-key"} & set(headers):
        headers["authorization"] = "Bearer demo-acme"


def _with_key(self: requests.Session, method: str, url: str, **options: object) -> requests.Response:
    """vLLM's server needs no key, so its tests send none where they use plain HTTP."""
    headers = httpx.Headers(options.pop("headers", None))
    add_key(url, headers)
    return _send(self, method, url, headers=dict(headers), **options)


class WithKey(httpx.Request):
    """The same for httpx; a request of an SDK has its key already."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        add_key(str(self.url), self.headers)


class LocalAssetServer:
    """Only tests with images use it."""


class Hub:
    """The tests download adapters and tokenizers; all of them are the demo's adapter here."""

    def snapshot_download(self, *_: object, **__: object) -> str:
        return str(demo.ADAPTERS["acme-support"].path)


@pytest.fixture(scope="session")
def local_asset_server() -> LocalAssetServer:
    return LocalAssetServer()


requests.Session.request = _with_key
httpx._client.Request = WithKey
repo_utils.hf_api = Hub
