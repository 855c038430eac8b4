"""What the one log line of a request says; never a key, and never what was said unless the operator asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sampling.layers import Resolved
from server.api.middleware import Record
from server.request.context import Caller, RequestContext, UsageCounters


def note_caller(record: Record, caller: Caller) -> None:
    """Who called, for the access record; never the key itself."""
    record["tenant"] = caller.tenant_name
    record["key_id"] = caller.key.id
    record["key_prefix"] = caller.key.prefix


def note_asked(record: Record, body: Mapping[str, Any]) -> None:
    """The model that was asked for, whether there is one or not."""
    if isinstance(body.get("model"), str):
        record["model"] = body["model"][:128]


def note_target(record: Record, context: RequestContext, resolved: Resolved) -> None:
    """What answers."""
    record["model"] = context.target.model
    if context.target.version is not None:
        record["adapter"] = context.target.version.adapter
        record["version"] = context.target.version.number
    record["stream"] = bool(resolved.body.get("stream"))


def note_prompt(record: Record, body: Mapping[str, Any]) -> None:
    """What was asked; only where the operator wants it (`--log-prompts`)."""
    record["prompt"] = {
        name: body[name] for name in ("system", "messages", "prompt", "input") if name in body
    }


def note_usage(record: Record, context: RequestContext) -> None:
    """What it took."""
    usage: UsageCounters = context.usage
    record["prompt_tokens"] = usage.prompt_tokens
    record["cached_tokens"] = usage.cached_tokens
    record["completion_tokens"] = usage.generated_tokens
    record["finish_reason"] = ",".join(sorted(set(usage.finish_reasons))) or None
    if usage.queue_s is not None:
        record["queue_ms"] = round(usage.queue_s * 1000, 1)
    if usage.first_token_at is not None:
        record["ttft_ms"] = round((usage.first_token_at - context.started_at) * 1000, 1)
    record["run_ms"] = round((time.monotonic() - context.started_at) * 1000, 1)
