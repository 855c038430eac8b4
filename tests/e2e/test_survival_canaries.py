"""A canary that answers badly loses its traffic by itself, on a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import ServerProcess
from survival import Admin, Bystander, admin_of, whole_adapter

import demo

END_OF_TEXT = json.loads((demo.MODEL_DIR / "config.json").read_text())["eos_token_id"]
#: Decoding defaults of a version that make it answer as a badly trained one does.
BAD: dict[str, tuple[dict[str, Any], int]] = {  # with the length of answers it takes to see it
    "empty": ({"logit_bias": {str(END_OF_TEXT): 100}}, 8),
    "repeating": ({"logit_bias": {"300": 100}}, 72),
}


@pytest.fixture
def admin(server: ServerProcess) -> Iterator[Admin]:
    with Bystander(server.url).asking() as bystander, admin_of(server.url) as admin:
        yield admin
        bystander.check()
        admin.clean_up()


def ask(server: ServerProcess, name: str, max_tokens: int, number: int) -> int:
    request = {
        "model": f"acme-{name}",
        "prompt": "Tell me about",
        "max_tokens": max_tokens,
        "user": f"user {number}",
    }
    headers = {"authorization": "Bearer demo-acme"}
    return httpx.post(f"{server.url}/v1/completions", json=request, headers=headers, timeout=120).status_code


def targets(admin: Admin, name: str) -> list[int]:
    return [target["version"] for target in admin.show(name)["alias"]["targets"]]


def until_rolled_back(admin: Admin, name: str, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while targets(admin, name) != [1]:
        assert time.monotonic() < deadline, admin.show(name)["alias"]
        time.sleep(0.1)


def split(admin: Admin, name: str) -> None:
    body = {"weights": {"1": 0.5, "2": 0.5}}
    assert admin.http.post(f"/admin/v1/adapters/acme/{name}/split", json=body).status_code == 200


def rollbacks(admin: Admin) -> float:
    lines = admin.http.get("/metrics").text.splitlines()
    return float(
        next(line for line in lines if line.startswith("loragate_canary_rollbacks_total")).split()[1]
    )


@pytest.mark.parametrize("how", BAD)
def test_a_canary_with_bad_answers_is_rolled_back(
    admin: Admin, server: ServerProcess, tmp_path: Path, how: str
) -> None:
    name, before = f"{how}.bird", rollbacks(admin)
    defaults, max_tokens = BAD[how]
    folder = whole_adapter(tmp_path, 21, scale=0.1)
    assert admin.add(name, folder).status_code == 201
    # promoted once itself: what was served before the split is the canary, and must not be gone back to
    assert admin.add(name, folder, sampling_defaults=defaults).status_code == 201
    split(admin, name)
    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(lambda number: ask(server, name, max_tokens, number), range(160)))
    assert statuses == {200}
    until_rolled_back(admin, name)
    assert rollbacks(admin) == before + 1
    change = admin.show(name)["history"][0]
    assert change["by"] == "canary watch"
    assert admin.remove(name).status_code == 200
