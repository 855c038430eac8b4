"""Response models of the routes that show what a server does now and did lately (`server.api.admin.live`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from adapters.models import Role
from server.fairness.shares import Capacity


class KeySummary(BaseModel):
    """The key that was used."""

    id: str
    prefix: str
    note: str
    expires_at: datetime | None


class WhoamiInfo(BaseModel):
    """Whose key it is, and what the console needs to know of the server."""

    role: Role
    tenant: str | None
    key: KeySummary
    person: str | None
    """Who signed in at the provider; null for a key."""
    read_only: bool
    base_model: str
    keeps_feedback_messages: bool
    playground_preset: str
    """The preset that the playground begins with; empty: none."""


class StateInfo(BaseModel):
    """Whether requests are answered at this moment."""

    state: str
    stalled: bool
    """The engine has stalled and is being restarted."""
    silent_s: float
    """Seconds since the engine's last step or answer."""
    warning: str | None
    """A sentence while the registry's database does not answer."""


class TenantLoad(BaseModel):
    """A tenant's sequences and KV blocks at this moment; tenant "" stands for operators."""

    tenant: str
    running: int
    waiting: int
    kv_blocks: int
    guaranteed_blocks: int
    limit_blocks: int
    weight: float


class TenantLive(BaseModel):
    """What a tenant admin sees of the engine."""

    state: str
    adapters_loaded: int
    tenants: list[TenantLoad]


class OperatorLive(BaseModel):
    """What an operator sees of the engine."""

    state: str
    adapters_loaded: int
    adapters_capacity: int
    capacity: Capacity
    tenants: list[TenantLoad]


class OptionInfo(BaseModel):
    """A decoding option of chat requests."""

    name: str
    type: str
    range: str
    default: Any
    source: str
    meaning: str


class HistoryPoint(BaseModel):
    """One step of a history; times to the first token are estimates, gauges the largest values of the step."""

    requests: int
    errors: int
    prompt_tokens: int
    generated_tokens: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    running: int
    waiting: int
    kv_blocks: int


class HistoryInfo(BaseModel):
    """The last hour or day of all servers since each one's start; `begins` is that of the first step."""

    begins: datetime
    step_s: int
    points: list[HistoryPoint]
    adapters: list[tuple[str, str]]
    """(tenant, adapter) pairs that can be asked for."""
    servers: int
    """How many servers' requests are in it."""
    missing: list[str]
    """Ids of servers that did not answer in time; `registry`: it is not known which others there are."""


class RequestInfo(BaseModel):
    """A request that has ended: what its log line says, and the decoding options that it set."""

    at: datetime
    options: dict[str, Any]
    request: dict[str, Any]
    server: str
    """Id of the server that answered it."""
