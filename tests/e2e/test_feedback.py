"""Feedback through a running server: whose it is, who may read it, where it is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from server_process import ServerProcess

from adapters.training.data.reader import read_conversations

ASK = {"model": "acme-support", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def call(server: ServerProcess) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def send(key: str, method: str, path: str, **request: object) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return client.request(method, path, headers=headers, **request)  # type: ignore[arg-type]

        yield send


@pytest.fixture(scope="module")
def acme_admin(call: Callable[..., httpx.Response]) -> Iterator[str]:
    made = call(
        "demo-admin", "POST", "/admin/v1/keys", json={"tenant": "acme", "role": "tenant_admin"}
    ).json()
    yield made["secret"]
    call("demo-admin", "DELETE", f"/admin/v1/keys/{made['id']}")


def counted(call: Callable[..., httpx.Response], rating: str) -> float:
    text = call("demo-admin", "GET", "/metrics").text
    labels = ('tenant="acme"', 'adapter="support"', f'rating="{rating}"')
    lines = [line for line in text.splitlines() if line.startswith("loragate_feedback_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels))


def test_a_rating_finds_its_version_its_metric_and_its_readers(
    call: Callable[..., httpx.Response], acme_admin: str
) -> None:
    before = counted(call, "down")
    answer = call("demo-acme", "POST", "/v1/chat/completions", json=ASK)
    body = {"request_id": answer.json()["id"], "rating": "down", "reason": "tone", "comment": "too curt"}
    taken = call("demo-acme", "POST", "/v1/feedback", json=body)
    assert taken.status_code == 201, taken.text
    request_id = answer.headers["x-request-id"]
    assert taken.json() | {"version": 0} == {
        "object": "feedback", "request_id": request_id, "adapter": "support", "version": 0,
        "rating": "down", "messages_kept": False,
    }  # fmt: skip
    assert counted(call, "down") == before + 1
    for key in (acme_admin, "demo-admin"):
        rows = call(key, "GET", "/admin/v1/feedback?tenant=acme").json()["data"]
        row = next(row for row in rows if row["request_id"] == request_id)
        assert row["comment"] == "too curt" and row["version"] == taken.json()["version"]
    assert {row["tenant"] for row in call(acme_admin, "GET", "/admin/v1/feedback").json()["data"]} == {"acme"}
    foreign = call(acme_admin, "GET", "/admin/v1/feedback?tenant=globex")
    missing = call(acme_admin, "GET", "/admin/v1/feedback?tenant=glabex")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text.replace("globex", "glabex") == missing.text
    assert call("demo-acme", "GET", "/admin/v1/feedback").status_code == 403


def test_another_tenants_request_is_as_one_that_is_not(call: Callable[..., httpx.Response]) -> None:
    request_id = call("demo-acme", "POST", "/v1/chat/completions", json=ASK).headers["x-request-id"]
    missing_id = uuid4().hex
    foreign = call("demo-globex", "POST", "/v1/feedback", json={"request_id": request_id, "rating": "up"})
    missing = call("demo-globex", "POST", "/v1/feedback", json={"request_id": missing_id, "rating": "up"})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text.replace(request_id, missing_id) == missing.text
    assert foreign.json()["error"]["code"] == "request_not_found"


def test_a_kept_chat_is_exported_to_its_own_tenant_and_read_by_the_trainer(
    call: Callable[..., httpx.Response], acme_admin: str, tmp_path: Path
) -> None:
    answer = call("demo-acme", "POST", "/v1/chat/completions", json=ASK)
    said = answer.json()["choices"][0]["message"]["content"]
    chat = [*ASK["messages"], {"role": "assistant", "content": said}]
    body = {"request_id": answer.json()["id"], "rating": "up", "messages": chat}
    taken = call("demo-acme", "POST", "/v1/feedback", json=body)
    assert taken.status_code == 201 and taken.json()["messages_kept"] is True, taken.text
    file = tmp_path / "chats.jsonl"
    for key in ("demo-admin", acme_admin):
        file.write_text(call(key, "GET", "/admin/v1/feedback?format=jsonl&rating=up").text)
        assert chat in [list(kept.messages) for kept in read_conversations(file)]
    listed = call("demo-admin", "GET", "/admin/v1/feedback?tenant=acme").json()["data"]
    row = next(row for row in listed if row["request_id"] == taken.json()["request_id"])
    assert row["messages"] == len(chat), "a list tells how many, not what was said"
    foreign = call("demo-admin", "GET", "/admin/v1/feedback?format=jsonl&rating=up&tenant=globex")
    assert said not in foreign.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"request_id": "r"},
        {"request_id": "r", "rating": "fine"},
        {"request_id": "r", "rating": "up", "x": 1},
    ],
)
def test_what_cannot_be_feedback(call: Callable[..., httpx.Response], body: dict[str, object]) -> None:
    refused = call("demo-acme", "POST", "/v1/feedback", json=body)
    assert refused.status_code == 400 and refused.json()["error"]["param"]
    assert call("nobody", "POST", "/v1/feedback", json={"request_id": "r", "rating": "up"}).status_code == 401


def test_live_state_and_failures_are_ones_own(call: Callable[..., httpx.Response], acme_admin: str) -> None:
    assert call("demo-globex", "POST", "/v1/chat/completions", json=ASK).status_code == 404
    assert call("demo-acme", "POST", "/v1/chat/completions", json=ASK | {"temperature": 9}).status_code == 400
    live = call(acme_admin, "GET", "/admin/v1/live").json()
    assert [tenant["tenant"] for tenant in live["tenants"]] == ["acme"] and live["state"] == "ready"
    assert live["tenants"][0]["limit_blocks"] > 0 and "capacity" not in live
    whole = call("demo-admin", "GET", "/admin/v1/live").json()
    assert {"acme", "globex", ""} <= {tenant["tenant"] for tenant in whole["tenants"]}
    assert whole["capacity"]["kv_blocks"] >= live["tenants"][0]["limit_blocks"]
    assert whole["adapters_loaded"] >= live["adapters_loaded"]
    failures = call(acme_admin, "GET", "/admin/v1/errors").json()["data"]
    assert {failure["tenant"] for failure in failures} == {"acme"} and failures[0]["code"] == "invalid_value"
    assert "Hello" not in str(failures), "no prompts, no error texts"
    assert {"acme", "globex"} <= {
        failure["tenant"] for failure in call("demo-admin", "GET", "/admin/v1/errors").json()["data"]
    }
    assert call(acme_admin, "GET", "/admin/v1/errors?tenant=globex").status_code == 404
    assert call(acme_admin, "GET", "/admin/v1/whoami").json()["tenant"] == "acme"
    for path in ("whoami", "live", "errors", "options", "feedback"):
        assert call("demo-acme", "GET", f"/admin/v1/{path}").status_code == 403


def test_a_consoles_questions_do_not_fill_the_log(
    call: Callable[..., httpx.Response], server: ServerProcess
) -> None:
    def logged() -> list[object]:
        return [line["status"] for line in server.events("request") if line["path"] == "/admin/v1/live"]

    before = logged()
    assert call("demo-admin", "GET", "/admin/v1/live").status_code == 200
    assert call("demo-acme", "GET", "/admin/v1/live").status_code == 403
    deadline = time.monotonic() + 5
    while logged() == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert logged() == [*before, 403]
