"""`vllm_xargs` reaches the engine's own dictionary, where our stamp rides: nothing of a caller's may be in it."""

from __future__ import annotations

import re

import httpx
from server_process import ServerProcess

BASE = "loragate-demo"


def tokens(server: ServerProcess, tenant: str) -> float:
    """All tokens that were counted for a tenant."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    lines = re.findall(rf'^loragate_tokens_total\{{[^}}]*tenant="{tenant}"[^}}]*\}} (\S+)$', text, re.M)
    return sum(map(float, lines))


def test_nobody_works_on_anothers_account(http: httpx.Client, server: ServerProcess) -> None:
    stamp = {"tenant": "globex", "policy": {"weight": 1000, "kv_guarantee": 1.0, "kv_limit": 1.0}}
    for smuggled in ({"loragate": stamp}, {"loragate": "globex"}, {"loragate": ["globex"]}):
        before = {tenant: tokens(server, tenant) for tenant in ("acme", "globex")}
        body = {"model": BASE, "prompt": "Hello!", "max_tokens": 5, "vllm_xargs": smuggled}
        assert http.post("/v1/completions", json=body).status_code == 200
        assert tokens(server, "globex") == before["globex"]
        assert tokens(server, "acme") > before["acme"]


def test_nobody_switches_the_engines_features(http: httpx.Client) -> None:
    """`loragate_repetition` is how the gate asks for loops to be ended; from a caller it is no word at all."""
    token = http.post("/tokenize", json={"prompt": "x"}).json()["tokens"][0]
    body = {
        "model": BASE, "prompt": "x", "max_tokens": 200, "allowed_token_ids": [token], "ignore_eos": True,
        "vllm_xargs": {"loragate_repetition": "stop"},
    }  # fmt: skip
    answer = http.post("/v1/completions", json=body)
    assert answer.json()["usage"]["completion_tokens"] == 200
