"""The access record logs what is known, in one order, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

from adapters.models import Key, Role, Tenant, Version, VersionState
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.request.access_log import AccessRecord
from server.request.context import Caller, RequestContext, Target

NOW = datetime.now(UTC)
KEY = Key("k", "acme", Role.INFERENCE, "lg-abc", "the hash", None, None, None, NOW)
BODY = {"model": "acme-support", "messages": [{"role": "user", "content": "a secret"}], "stream": True}


def context(target: Target) -> RequestContext:
    caller = Caller(KEY, Tenant("acme"))
    return RequestContext(
        "r", Endpoint.CHAT, caller, target, Resolved(dict(BODY), {}, ()), TenantSettings(), "salt"
    )


def test_what_is_not_known_is_not_logged() -> None:
    record = AccessRecord("r", "GET", "/version")
    record.status, record.total_ms = 200, 0.4
    assert record.log_fields() == {
        "request_id": "r", "method": "GET", "path": "/version", "status": 200, "total_ms": 0.4
    }  # fmt: skip


def test_an_operator_has_an_empty_tenant() -> None:
    record = AccessRecord("r", "POST", "/v1/completions")
    record.note_caller(Caller(KEY, None))
    assert record.log_fields()["tenant"] == ""


def test_a_generating_request_has_all_fields_in_their_order() -> None:
    version = Version("acme", "support", 2, 7, VersionState.READY, "", NOW)
    running = context(Target("acme-support", version))
    record = AccessRecord("r", "POST", "/v1/chat/completions", trace_id="t")
    record.note_caller(running.caller)
    record.note_requested_model(BODY)
    record.note_target(running)
    record.status = 200
    running.usage.queue_s, running.usage.first_token_at = 0.0, running.started_at + 0.25
    running.usage.finish_reasons += ["stop", "length", "stop"]
    record.note_usage(running)
    record.total_ms = 1.0
    logged = record.log_fields()
    assert list(logged) == [
        "request_id", "method", "path", "trace_id", "tenant", "key_id", "key_prefix", "model", "adapter", "version",
        "stream", "status", "prompt_tokens", "cached_tokens", "completion_tokens", "finish_reason", "queue_ms",
        "ttft_ms", "run_ms", "total_ms",
    ]  # fmt: skip
    assert (logged["finish_reason"], logged["ttft_ms"], logged["stream"]) == ("length,stop", 250.0, True)
    assert "a secret" not in str(logged) and "the hash" not in str(logged)
    record.note_prompt(BODY)
    assert record.log_fields()["prompt"] == {"messages": BODY["messages"]}


def test_an_answer_without_a_finish_reason_logs_null() -> None:
    running = context(Target("base", None))
    record = AccessRecord("r", "POST", "/v1/chat/completions")
    record.note_usage(running)
    logged = record.log_fields()
    assert logged["finish_reason"] is None and logged["completion_tokens"] == 0
    assert "adapter" not in logged and "ttft_ms" not in logged


def test_a_long_model_name_is_cut_off() -> None:
    record = AccessRecord("r", "POST", "/v1/chat/completions")
    record.note_requested_model({"model": "x" * 500})
    assert record.model == "x" * 128
    record.note_requested_model({"model": 7})
    assert record.model == "x" * 128
