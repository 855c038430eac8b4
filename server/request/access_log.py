"""The access record: what the one log line of a request says.

It never holds a key. It holds the prompt only with `--log-prompts`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.request.context import Caller, RequestContext

_MAX_MODEL_CHARS = 128
_PROMPT_FIELDS = ("system", "messages", "prompt", "input")


@dataclass(slots=True)
class AccessRecord:
    """One request's log line, filled in as the request proceeds; None means not known, and is not logged."""

    request_id: str
    method: str
    path: str
    trace_id: str | None = None
    tenant: str | None = None
    """Empty for an operator's key."""
    key_id: str | None = None
    key_prefix: str | None = None
    model: str | None = None
    adapter: str | None = None
    version: int | None = None
    stream: bool | None = None
    prompt: dict[str, Any] | None = None
    status: int | None = None
    code: str | None = None
    """The error's code, as the caller got it."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    """Of a generating request it is logged as null while there is none."""
    lease_ms: float | None = None
    """The wait for parts of limits that several servers share, where there was one."""
    queue_ms: float | None = None
    ttft_ms: float | None = None
    run_ms: float | None = None
    error: str | None = None
    """The class of an exception that nothing handled."""
    total_ms: float | None = None

    def note_caller(self, caller: Caller) -> None:
        """Who called; never the key itself."""
        self.tenant = caller.tenant_name
        self.key_id = caller.key.id
        self.key_prefix = caller.key.prefix

    def note_requested_model(self, body: Mapping[str, Any]) -> None:
        """The model that was asked for, whether it exists or not."""
        if isinstance(body.get("model"), str):
            self.model = body["model"][:_MAX_MODEL_CHARS]

    def note_prompt(self, body: Mapping[str, Any]) -> None:
        """What was asked; only with `--log-prompts`."""
        self.prompt = {name: body[name] for name in _PROMPT_FIELDS if name in body}

    def note_target(self, context: RequestContext) -> None:
        """The model that answers."""
        self.model = context.target.model
        if context.target.version is not None:
            self.adapter = context.target.version.adapter
            self.version = context.target.version.number
        self.stream = bool(context.sampling.body.get("stream"))

    def note_usage(self, *contexts: RequestContext) -> None:
        """Tokens and times of the request, as far as it came; of a batch the sums, and the first chat's times."""
        if not contexts:
            return
        usages = [context.usage for context in contexts]
        self.prompt_tokens = sum(usage.prompt_tokens for usage in usages)
        self.cached_tokens = sum(usage.cached_tokens for usage in usages)
        self.completion_tokens = sum(usage.generated_tokens for usage in usages)
        reasons = {reason for usage in usages for reason in usage.finish_reasons}
        self.finish_reason = ",".join(sorted(reasons)) or None
        context, usage = contexts[0], usages[0]
        self.lease_ms = round(usage.lease_s * 1000, 1) or None
        if usage.queue_s is not None:
            self.queue_ms = round(usage.queue_s * 1000, 1)
        if usage.first_token_at is not None:
            self.ttft_ms = round((usage.first_token_at - context.started_at) * 1000, 1)
        self.run_ms = round((time.monotonic() - context.started_at) * 1000, 1)

    def log_fields(self) -> dict[str, Any]:
        """The fields that are known, in their order in the log line."""
        values = {name: getattr(self, name) for name in self.__slots__}
        generated = self.completion_tokens is not None
        return {
            name: value
            for name, value in values.items()
            if value is not None or (name == "finish_reason" and generated)
        }
