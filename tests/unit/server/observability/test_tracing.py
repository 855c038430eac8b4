"""Traces without a collector cost nothing; with one that is down they do no harm."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from starlette.datastructures import Headers

from server.observability.tracing import Tracing
from server.request.access_log import AccessRecord

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(**known: Any) -> AccessRecord:
    return AccessRecord("r", "POST", "/v1/completions", **known)


def test_without_an_endpoint_headers_pass_and_nothing_is_made() -> None:
    headers = Headers({"traceparent": PARENT, "x": "y"})
    trace = Tracing().begin(headers, "/v1/chat/completions")
    assert trace.id is None and trace.headers is headers
    trace.end(record(status=200), None)


@pytest.mark.slow
def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    code = (
        "import sys, server.observability.tracing as t; t.Tracing(); sys.exit('opentelemetry' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_collector_that_is_down_neither_fails_nor_holds_up_a_request() -> None:
    tracing = Tracing("http://127.0.0.1:9")
    began = time.perf_counter()
    trace = tracing.begin(Headers({"traceparent": PARENT, "authorization": "Bearer k"}), "/v1/completions")
    assert trace.id == "0af7651916cd43dd8448eb211c80319c"
    below = trace.headers
    assert below["traceparent"].split("-")[1] == trace.id and below["traceparent"] != PARENT
    assert below["authorization"] == "Bearer k"
    trace.end(record(status=503, code="draining", tenant="acme"), None)
    assert time.perf_counter() - began < 1.0


def test_a_caller_that_does_not_sample_is_not_traced() -> None:
    tracing = Tracing("http://127.0.0.1:9")
    trace = tracing.begin(Headers({"traceparent": PARENT[:-1] + "0"}), "/v1/completions")
    assert trace.headers["traceparent"].endswith("-00")
    trace.end(record(status=200), None)
