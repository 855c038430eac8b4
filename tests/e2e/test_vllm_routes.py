"""/v1/load_lora_adapter and /v1/unload_lora_adapter, as controllers of vLLM call them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from server_process import ServerProcess

from demo.random_adapter import write_random_adapter


@pytest.fixture
def call(server: ServerProcess):
    def call(path: str, body: dict[str, object], key: str = "demo-admin") -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=120)

    return call


def test_load_swap_unload(call, server: ServerProcess, tmp_path: Path) -> None:
    first = write_random_adapter(tmp_path / "one", seed=11)
    second = write_random_adapter(tmp_path / "two", seed=12)
    ask = {"model": "globex-extra", "prompt": "Tell me", "max_tokens": 8, "temperature": 0}
    load = {"lora_name": "globex-extra", "lora_path": str(first)}

    done = call("/v1/load_lora_adapter", load)
    assert done.status_code == 200 and done.text.startswith("Success"), done.text
    before = call("/v1/completions", ask, "demo-globex").json()["choices"][0]["text"]

    again = call("/v1/load_lora_adapter", load | {"lora_path": str(second)})
    assert again.status_code == 409 and "load_inplace" in again.json()["error"]["message"]
    inplace = call("/v1/load_lora_adapter", load | {"lora_path": str(second), "load_inplace": True})
    assert inplace.status_code == 200
    after = call("/v1/completions", ask, "demo-globex").json()["choices"][0]["text"]
    assert before != after, "no stale prefix cache under the same name"

    assert call("/v1/unload_lora_adapter", {"lora_name": "globex-extra"}).status_code == 200
    assert call("/v1/completions", ask, "demo-globex").status_code == 404
    assert call("/v1/unload_lora_adapter", {"lora_name": "globex-extra"}).status_code == 404


def test_they_need_a_managers_key(call) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert call(path, {"lora_name": "acme-x", "lora_path": "/etc"}, "demo-acme").status_code == 403


@pytest.mark.parametrize("name", ["", "nodash", "UPPER-x", "acme-", "../x-y"])
def test_names(call, name: str, tmp_path: Path) -> None:
    assert call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(tmp_path)}).status_code == 400
