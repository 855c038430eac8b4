"""`kv_transfer_params` names another engine's KV blocks: nobody may read from there, nor be told of it."""

from __future__ import annotations

import json
from uuid import uuid4

import httpx
import pytest

BODY = {"model": "acme-support", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 12}
REMOTE = {
    "do_remote_prefill": True,
    "do_remote_decode": True,
    "remote_engine_id": "other",
    "remote_block_ids": [1, 2, 3],
    "remote_host": "127.0.0.1",
    "remote_port": 1,
    "remote_prefill_cached_tokens": 77,
}


def streamed(answer: httpx.Response) -> str:
    """The text of a stream; how it is cut into events depends on how busy the machine is."""
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@pytest.mark.parametrize("stream", [False, True])
def test_they_change_no_answer(http: httpx.Client, stream: bool) -> None:
    ask = BODY | {"temperature": 0, "stream": stream}
    plain = http.post("/v1/chat/completions", json=ask)
    remote = http.post("/v1/chat/completions", json=ask | {"kv_transfer_params": REMOTE})
    assert plain.status_code == remote.status_code == 200
    if stream:
        assert streamed(remote) == streamed(plain)
    else:
        assert remote.json()["choices"] == plain.json()["choices"]
        assert not remote.json().get("kv_transfer_params")


def test_they_change_no_count(http: httpx.Client) -> None:
    """vLLM would report what a remote prefill claims to have found in the cache."""
    ask = BODY | {"messages": [{"role": "user", "content": uuid4().hex}], "kv_transfer_params": REMOTE}
    usage = http.post("/v1/chat/completions", json=ask).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
