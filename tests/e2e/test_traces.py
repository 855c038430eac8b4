"""One request, one trace: the caller's span above, ours with its stages below, vLLM's own among them."""

from __future__ import annotations

import itertools
import secrets

import httpx
import pytest
from otlp_collector import Collector
from server_process import ServerProcess

HELLO = [{"role": "user", "content": "a question that no trace may show"}]
STAGES = {"admission", "hold", "queue", "prefill", "decode"}
ROOT = "POST /v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
def test_our_spans_and_vllms_are_one_trace(
    server: ServerProcess, http: httpx.Client, collector: Collector, stream: bool
) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    body = {"model": "acme-support", "messages": HELLO, "max_tokens": 8, "stream": stream}
    headers = {"traceparent": f"00-{trace_id}-{caller}-01", "x-request-id": f"traced-{trace_id}"}
    assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200

    found = collector.spans(trace_id, {ROOT, "llm_request", *STAGES})
    by_name = {span.name: span for span in found}
    assert set(by_name) == {ROOT, "llm_request", *STAGES} and len(found) == len(by_name)
    root = by_name[ROOT]
    assert root.parent_id == caller and root.service == "loragate"
    assert all(span.parent_id == root.span_id for span in found if span is not root)
    assert by_name["llm_request"].service != "loragate", "vLLM's own"

    order = [by_name[name] for name in ("admission", "hold", "queue", "prefill", "decode")]
    slack_ns = 5_000_000  # clocks are read twice to tell wall time
    for before, after in itertools.pairwise(order):
        assert before.start_ns <= before.end_ns <= after.end_ns + slack_ns
        assert before.start_ns <= after.start_ns + slack_ns
    assert all(
        root.start_ns - slack_ns <= span.start_ns and span.end_ns <= root.end_ns + slack_ns for span in order
    )
    assert root.attributes["loragate.tenant"] == "acme"
    assert root.attributes["loragate.adapter"] == "support"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.output_tokens"] > 0
    assert not any("no trace may show" in str(span.attributes) for span in found)


def test_the_access_record_names_the_trace(
    server: ServerProcess, http: httpx.Client, collector: Collector
) -> None:
    body = {"model": "acme-support", "messages": HELLO, "max_tokens": 2}
    http.post("/v1/chat/completions", json=body, headers={"x-request-id": "without-a-parent"})
    record = server.event_of("without-a-parent")
    (root,) = [span for span in collector.spans(str(record["trace_id"]), {ROOT}) if span.name == ROOT]
    assert root.parent_id == "" and root.attributes["loragate.request_id"] == "without-a-parent"


def test_a_refusal_is_traced_as_far_as_it_came(http: httpx.Client, collector: Collector) -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    body = {"model": "nobody", "messages": HELLO}
    assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 404
    found = {span.name: span for span in collector.spans(trace_id, {ROOT, "admission"})}
    assert set(found) == {ROOT, "admission"}
    assert found[ROOT].attributes["error.type"] == "model_not_found"


def test_a_broken_traceparent_is_no_reason_to_fail(http: httpx.Client) -> None:
    body = {"model": "acme-support", "messages": HELLO, "max_tokens": 2}
    for broken in ("", "zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000):
        headers = {"traceparent": broken, "tracestate": "=,=" * 50}
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
