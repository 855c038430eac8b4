"""What a caller gets when something is wrong: one shape, the right status, and no leak."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from server_process import ServerProcess

SUPPORT = "acme-support"
BASE = "loragate-demo"
HELLO = [{"role": "user", "content": "Hello!"}]


def assert_shape(response: httpx.Response, status: int) -> dict[str, str]:
    """The one shape of an error."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str) and isinstance(error["message"], str) and error["message"]
    for leak in ("Traceback", "/site-packages", "/root", "/tmp", "0x7"):
        assert leak not in response.text
    return error


def test_no_key(server: ServerProcess) -> None:
    for path in ("/v1/models", "/admin/v1/tenants"):
        assert_shape(httpx.get(server.url + path), 401)
    assert_shape(httpx.post(server.url + "/v1/chat/completions", json={}), 401)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{not json", "invalid_json"),
        (b"[1, 2]", "invalid_json"),
        (b"", "invalid_json"),
        (b'"' + b"[" * 100_000, "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
    ],
)
def test_malformed_json(http: httpx.Client, body: bytes, code: str) -> None:
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert assert_shape(response, 400)["code"] == code


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "no role"}]}, None),
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"tool_choice": "banana"}, None),
        ({"response_format": {"type": "json_schema"}}, None),
    ],
)
def test_bad_values_name_the_field(http: httpx.Client, change: dict[str, object], param: str | None) -> None:
    body = {"model": SUPPORT, "messages": HELLO, "max_tokens": 4} | change
    error = assert_shape(http.post("/v1/chat/completions", json=body), 400)
    if param is not None:
        assert error["param"] == param, error


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    assert assert_shape(http.get("/v1/nothing"), 404)["code"] == "route_not_found"
    assert assert_shape(http.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert assert_shape(http.delete("/v1/models"), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/adapters", "/invocations", "/ping", "/scale_elastic_ep", "/is_scaling_elastic_ep", "/load", "/v1/systemone",
        "/inference/v1/generate", "/server_info", "/reset_prefix_cache", "/sleep",
        "/collective_rpc", "/v1/embeddings", "/pooling", "/docs", "/redoc", "/start_profile",
    ],
)  # fmt: skip
def test_routes_of_vllm_that_must_not_exist(http: httpx.Client, path: str) -> None:
    assert_shape(http.get(path), 404)
    assert_shape(http.post(path, json={}), 404)


def test_body_cap(server: ServerProcess) -> None:
    headers = {"authorization": "Bearer demo-acme", "content-type": "application/json"}
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=b" " * (17 * 1024 * 1024), headers=headers, timeout=60
    )
    assert assert_shape(response, 413)["code"] == "body_too_large"

    def chunks():
        for _ in range(17):
            yield b" " * 1024 * 1024

    response = httpx.post(f"{server.url}/v1/chat/completions", content=chunks(), headers=headers, timeout=60)
    assert assert_shape(response, 413)["code"] == "body_too_large"


def test_request_id_is_taken_over_when_harmless(http: httpx.Client) -> None:
    asked = {"x-request-id": "my-own.id:1"}
    assert http.get("/v1/models", headers=asked).headers["x-request-id"] == "my-own.id:1"
    unsafe = {"x-request-id": "a b<script>"}
    assert http.get("/v1/models", headers=unsafe).headers["x-request-id"] != "a b<script>"


def test_the_same_request_id_twice_at_once(http: httpx.Client) -> None:
    """Ids of callers may collide; their answers must not."""
    body = {"model": SUPPORT, "messages": HELLO, "temperature": 0, "stream": True}
    headers = {"x-request-id": "twice"}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as first:
        second = http.post("/v1/chat/completions", json=body, headers=headers)
        whole = "".join(first.iter_text())
    assert first.status_code == second.status_code == 200

    def content(text: str) -> str:
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])

    assert content(whole) == content(second.text) != ""


def test_a_whole_answer_that_nobody_waits_for_is_aborted_too(
    server: ServerProcess, http: httpx.Client
) -> None:
    body = {"model": SUPPORT, "messages": HELLO, "ignore_eos": True, "max_tokens": 1800}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=0.5)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        records = [r for r in server.events("request") if r.get("status") == 499]
        if records:
            break
        time.sleep(0.05)
    assert records and records[-1]["completion_tokens"] < 1800  # type: ignore[operator]


def test_access_record(server: ServerProcess, http: httpx.Client) -> None:
    body = {"model": SUPPORT, "messages": HELLO, "temperature": 0}
    http.post("/v1/chat/completions", json=body, headers={"x-request-id": "look-at-me"})
    time.sleep(0.2)
    (record,) = [r for r in server.events("request") if r["request_id"] == "look-at-me"]
    assert record["tenant"] == "acme" and record["adapter"] == "support" and record["version"] == 1
    assert record["status"] == 200 and record["finish_reason"] == "stop"
    assert record["prompt_tokens"] > 0 and record["completion_tokens"] > 0  # type: ignore[operator]
    assert record["ttft_ms"] > 0 and record["total_ms"] >= record["ttft_ms"]  # type: ignore[operator]
    assert "demo-acme" not in "\n".join(server.raw), "a key in the log"
