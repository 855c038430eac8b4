"""A server with a model of the test's own: the same adapters and keys as the demo's, other weights or files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from server_process import LORAGATE, ServerProcess, start

import demo

SERVED_NAME = "custom"


@contextmanager
def custom_server(model: Path, data_dir: Path, *flags: str) -> Iterator[tuple[ServerProcess, httpx.Client]]:
    """Serve `model` as `custom` and give a client with an operator's key."""
    server = start("--model", str(model), "--served-model-name", SERVED_NAME, *flags, data_dir=data_dir)
    try:
        server.wait_for("/ready", 200)
        headers = {"authorization": f"Bearer {_operator_key(data_dir)}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
            yield server, client
    finally:
        server.stop()


def add_demo_adapters(client: httpx.Client) -> list[httpx.Response]:
    """Let the demo's tenants serve the demo's adapters on this base; returns the answers."""
    answers = []
    for adapter in demo.ADAPTERS.values():
        client.post("/admin/v1/tenants", json={"name": adapter.tenant}).raise_for_status()
        answers.append(
            client.post(
                f"/admin/v1/adapters/{adapter.tenant}/{adapter.name}/versions",
                json={"source": str(adapter.path)},
            )
        )
    return answers


def greedy(client: httpx.Client, model: str, question: str, *, max_tokens: int = 32) -> tuple[str, list[int]]:
    """Text and token ids of the greedy answer to one question."""
    answer = client.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "return_token_ids": True,
        },
    )
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["message"]["content"], choice["token_ids"]


def greedy_all(client: httpx.Client, model: str, questions: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The same for several questions, in one batch of the engine."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda question: greedy(client, model, question), questions))


def _operator_key(data_dir: Path) -> str:
    done = subprocess.run(
        [LORAGATE, "key", "add", "--role", "operator", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={name: value for name, value in os.environ.items() if not name.startswith("LORAGATE_")},
    )
    return done.stdout.strip()
