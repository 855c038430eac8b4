"""Two servers on one PostgreSQL registry and one depot, as `overlays/many-servers` runs them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from postgres_process import postgres_process
from server_process import LORAGATE, ServerProcess, start

import demo

ROOT = Path(__file__).parents[2]
PASSWORD = "p@ss/w:rd%40#"  # in a URL, every one of these characters would need percent-encoding
ASK = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 12}


def run(variables: dict[str, str], *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LORAGATE_")} | variables
    done = subprocess.run(
        [LORAGATE, *command], env=environment, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def launch(folder: Path, depot: Path, variables: dict[str, str]) -> ServerProcess:
    """A server whose data folder is its own."""
    model = ("--model", str(demo.MODEL_DIR), "--served-model-name", "base", "--depot", f"file://{depot}")
    size = ("--kv-cache-memory-bytes", str(64 << 20), "--max-loras", "2")
    return start(*model, *size, data_dir=folder, variables=variables)


def ask(server: ServerProcess, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = ASK | {"model": "acme-support"}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_adapter_added_on_one_server_answers_on_the_other(tmp_path: Path) -> None:
    shared = tmp_path / "depot"
    with postgres_process(PASSWORD) as database:
        url = f"postgresql+asyncpg://postgres@/postgres?host={database.folder}"
        variables = {"LORAGATE_DATABASE_URL": url, "PGPASSWORD": PASSWORD}
        servers = [launch(tmp_path / "a", shared, variables)]
        try:
            servers.append(launch(tmp_path / "b", shared, variables))
            _check(servers[0], servers[1], variables)
        finally:
            for server in servers:
                if server.process.poll() is None:
                    server.stop()


def _check(first: ServerProcess, second: ServerProcess, variables: dict[str, str]) -> None:
    for server in (first, second):
        server.wait_for("/ready", 200)
    run(variables, "tenant", "add", "acme")
    key = run(variables, "key", "add", "acme").strip()
    operator = run(variables, "key", "add", "--role", "operator").strip()
    calling = {"LORAGATE_URL": first.url, "LORAGATE_KEY": operator}
    run(calling, "adapter", "add", "acme", "support", str(ROOT / "demo/adapters/acme-support"))
    expected = ask(first, key)
    assert expected.status_code == 200, expected.text
    time.sleep(1)  # the registry's revision is read every half second
    assert ask(second, key).json()["choices"] == expected.json()["choices"]
    # An upgrade replaces the first: the second goes on alone, with all that was added on the first.
    assert first.stop() == 0
    assert ask(second, key).json()["choices"] == expected.json()["choices"]
