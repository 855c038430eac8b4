"""For test_kill_9.py: records of chats, which `loragate train --check` and evaluations read after `kill -9`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from click.testing import CliRunner
from server_process import ServerProcess

import demo
from server.cli.main import main

KEYS = {"acme": "demo-acme", "globex": "demo-globex"}
MAIL = "My address is jo@example.com."


def shell(*args: str) -> str:
    """A command, in this process: a new one would import for seconds each time."""
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    return done.stdout


def ask_server(server: ServerProcess, key: str, *args: str) -> str:
    """A command for a running server."""
    return shell(*args, "--url", server.url, "--key", key)


def turn_on(server: ServerProcess) -> None:
    """Each tenant's own admin does it."""
    for tenant in KEYS:
        key = (
            ask_server(server, "demo-admin", "key", "add", tenant, "--role", "tenant_admin")
            .strip()
            .splitlines()[-1]
        )
        ask_server(server, key, "tenant", "records", tenant, "--pattern", r"KD-\d+")
    time.sleep(1)  # a running server follows within half a second


def counts(server: ServerProcess) -> dict[str, int]:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    return {name: int(float(n)) for name, n in re.findall(r'records_total\{outcome="(\w+)"\} (\S+)', text)}


def ask(server: ServerProcess) -> None:
    """Chats of two tenants through three APIs, whole and streamed, and some that leave no record."""
    acme = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEYS["acme"], max_retries=0)
    globex = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEYS["globex"], max_retries=0)
    question = {"role": "user", "content": f"What is the price of the Storm Fan? {MAIL} KD-1234"}
    chat = {"model": "acme-support", "messages": [question], "temperature": 0}
    acme.chat.completions.create(**chat | {"temperature": 1.0}, n=2, extra_body={"top_k": 1})
    assert list(acme.chat.completions.create(**chat, stream=True))
    acme.responses.create(model="acme-support", input=question["content"], temperature=0)
    claude = anthropic.Anthropic(base_url=server.url, api_key=KEYS["acme"], max_retries=0)
    claude.messages.create(
        model="acme-support", max_tokens=100, messages=[question], extra_body={"temperature": 0}
    )
    row = json.loads(demo.ADAPTERS["globex-tools"].held_out.read_text().splitlines()[0])
    called = {
        "model": "globex-tools",
        "messages": row["messages"][:1],
        "tools": row["tools"],
        "temperature": 0,
    }
    for stream in (False, True):
        answer = globex.chat.completions.create(**called, stream=stream)
        assert not stream or list(answer)
    # No records: cut off, refused, left by its client, and no chat.
    acme.chat.completions.create(**chat, max_tokens=2)
    with pytest.raises(openai.BadRequestError):
        acme.chat.completions.create(**chat | {"temperature": 99})
    with acme.chat.completions.create(
        **chat, stream=True, max_tokens=3000, extra_body={"ignore_eos": True}
    ) as left:
        next(iter(left))
    acme.completions.create(model="acme-support", prompt="The", max_tokens=3)


def rows(place: Path, tenant: str) -> list[dict]:
    return [
        json.loads(line)
        for file in (place / tenant).glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]


def record(server: ServerProcess) -> None:
    """Make records, and some chats of which there must be none."""
    turn_on(server)
    ask(server)
    deadline = time.monotonic() + 60
    while sum(counts(server).values()) < 10 and time.monotonic() < deadline:
        time.sleep(0.2)
    told = counts(server)
    assert (told["written"], told["incomplete"], told["unsupported"]) == (6, 3, 1), told


def check_records(server: ServerProcess, place: Path) -> None:
    deadline = time.monotonic() + 30
    while not (rows(place, "acme") and rows(place, "globex")) and time.monotonic() < deadline:
        time.sleep(0.2)
    acme, globex = rows(place, "acme"), rows(place, "globex")
    assert (len(acme), len(globex)) == (4, 2)
    assert {row["messages"][0]["content"] for row in acme} == {
        "What is the price of the Storm Fan? My address is [email]. [redacted]"
    }
    assert len({row["messages"][-1]["content"] for row in acme}) == 1, "the same answer through every API"
    assert all(row["messages"][-1]["tool_calls"][0]["function"]["name"] == "track_order" for row in globex)
    for tenant, model in (("acme", "acme-support"), ("globex", "globex-tools")):
        (file,) = (place / tenant).glob("*.jsonl")
        assert "cannot be used" not in shell("train", "--check", str(file), "--base", "demo")
        figures = json.loads(
            ask_server(
                server, "demo-admin", "adapter", "evaluate", f"{model}@1", "--data", str(file), "--json"
            )
        )
        assert figures["figures"]["turns"] == len(rows(place, tenant)), figures
