"""One JSON line per finished request, with everything an operator asks for and nothing a tenant said."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from server_process import ServerProcess

SAID = "the colour of my secret elephant"
ALWAYS = {
    "ts", "level", "logger", "event", "request_id", "trace_id", "method", "path", "status", "total_ms", "tenant",
    "key_id", "key_prefix", "model", "adapter", "version", "stream", "prompt_tokens", "cached_tokens",
    "completion_tokens", "finish_reason", "queue_ms", "ttft_ms", "run_ms",
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_request_is_one_line_with_all_fields(
    server: ServerProcess, http: httpx.Client, stream: bool
) -> None:
    body = {
        "model": "acme-support",
        "messages": [{"role": "user", "content": SAID}],
        "stream": stream,
        "max_tokens": 8,
    }
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": f"logged-{stream}"})
    assert answer.status_code == 200
    record = server.event_of(f"logged-{stream}")
    assert set(record) == ALWAYS
    assert (record["tenant"], record["adapter"]) == ("acme", "support")
    assert record["version"] == server.serving_version("acme", "support")
    assert record["status"] == 200 and record["stream"] is stream
    assert 0 < float(record["ttft_ms"]) <= float(record["run_ms"]) <= float(record["total_ms"])  # type: ignore[arg-type]
    assert [raw for raw in server.raw if f'"logged-{stream}"' in raw and '"event": "request"' in raw][
        1:
    ] == []


def test_a_refused_request_says_why(server: ServerProcess, acme: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        acme.chat.completions.create(
            model="nobody",
            messages=[{"role": "user", "content": SAID}],
            extra_headers={"x-request-id": "refused"},
        )
    record = server.event_of("refused")
    assert record["status"] == 404 and record["code"] == "model_not_found" and record["tenant"] == "acme"


def test_neither_keys_nor_prompts_nor_answers_are_logged(server: ServerProcess, acme: openai.OpenAI) -> None:
    answer = acme.chat.completions.create(
        model="acme-support", messages=[{"role": "user", "content": SAID}], max_tokens=16, temperature=0
    )
    with pytest.raises(openai.BadRequestError):
        acme.chat.completions.create(model="acme-support", messages=[{"role": "user", "content": SAID * 900}])
    text = "\n".join(server.raw)
    assert SAID not in text
    said = answer.choices[0].message.content or ""
    assert said == "" or json.dumps(said)[1:-1] not in text
    for key in ("demo-acme", "demo-globex", "demo-admin"):
        assert key not in text
