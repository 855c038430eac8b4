"""Records in the composed server: who turns them on, what is written, and what the server says about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.training.data.reader import read_conversations
from server.request.context import JsonAnswer
from tests.unit.server.app.composed import Composed, compose

ANSWER = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}]
}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "I am a@b.de, KD-7"}]}
RECORDS = "/admin/v1/tenants/acme/records"


@pytest.fixture
async def composed(tmp_path: Path) -> AsyncIterator[Composed]:
    async with compose(tmp_path, records=str(tmp_path / "place")) as composed:

        async def handle(context: Any, headers: Any) -> JsonAnswer:
            return JsonAnswer(ANSWER)

        composed.engine.handle = handle  # type: ignore[method-assign]
        yield composed


async def admin_key(composed: Composed, tenant: str = "acme") -> str:
    made = await composed.make("POST", "/admin/v1/keys", json={"tenant": tenant, "role": "tenant_admin"})
    return str(made["secret"])


async def chat(composed: Composed, key: str = "demo-acme") -> None:
    model = (await composed.ask("GET", "/v1/models", key)).json()["data"][0]["id"]
    answer = await composed.ask("POST", "/v1/chat/completions", key, json={**CHAT, "model": model})
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
async def test_a_tenants_admin_turns_its_records_on_and_off_and_the_log_says_so(
    composed: Composed, tmp_path: Path
) -> None:
    key = await admin_key(composed)
    await chat(composed)
    on = await composed.ask("PUT", RECORDS, key, json={"share": 1.0, "patterns": [r"KD-\d+"]})
    assert on.status_code == 200 and on.json()["records"] == {"share": 1.0, "patterns": [r"KD-\d+"]}
    await chat(composed)
    await chat(composed, "demo-globex")
    assert (await composed.ask("DELETE", RECORDS, key)).json()["records"] is None
    log = (await composed.ask("GET", "/admin/v1/audit", key)).json()["data"]
    changes = [entry["details"] for entry in log if entry["action"] == "tenant.set"]
    assert changes == [{"records": None}, {"records": {"share": 1.0, "patterns": [r"KD-\d+"]}}]
    records = composed.server.records
    while not records.counts:
        await asyncio.sleep(0.01)
        await records.flush()
    metrics = (await composed.ask("GET", "/metrics")).text
    assert 'loragate_records_total{outcome="written"} 1.0' in metrics
    await records._writer.aclose()  # type: ignore[union-attr]
    (file,) = (tmp_path / "place" / "acme").glob("*.jsonl")
    (row,) = read_conversations(file)
    assert [m["content"] for m in row.messages] == ["I am [email], [redacted]", "Hello."]
    assert not (tmp_path / "place" / "globex").exists()


async def test_others_cannot_turn_them_on_and_bad_patterns_are_refused(composed: Composed) -> None:
    key, other = await admin_key(composed), await admin_key(composed, "globex")
    assert (await composed.ask("PUT", RECORDS, other, json={})).status_code == 404
    assert (await composed.ask("PUT", RECORDS, "demo-acme", json={})).status_code == 403
    assert (await composed.ask("DELETE", RECORDS, other)).status_code == 404
    for body, reason in (
        ({"share": 2}, "share (above 0, up to 1)"),
        ({"patterns": ["("]}, "no regular expression"),
        ({"patterns": ["a" * 201]}, "records"),
    ):
        answer = await composed.ask("PUT", RECORDS, key, json=body)
        assert answer.status_code == 400 and reason in answer.json()["error"]["message"]
        patched = await composed.ask("PATCH", "/admin/v1/tenants/acme", json={"records": body})
        assert patched.status_code == 400 and reason in patched.json()["error"]["message"]
    assert (await composed.make("GET", "/admin/v1/tenants/acme"))["records"] is None


async def test_a_server_without_a_place_refuses(tmp_path: Path) -> None:
    async with compose(tmp_path) as composed:
        for method, path, body in (
            ("PUT", RECORDS, {}),
            ("PATCH", "/admin/v1/tenants/acme", {"records": {}}),
            ("POST", "/admin/v1/tenants", {"name": "new", "settings": {"records": {}}}),
        ):
            answer = await composed.ask(method, path, json=body)
            assert answer.status_code == 400 and "--records" in answer.json()["error"]["message"], json.dumps(
                body
            )
