"""The records of one request: who calls, what answers, and what it has used. Stages pass them on;
only `held` is set later, on a copy that shares `usage`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from adapters.models import EngineAdapter, Key, Tenant, Version
from adapters.tenant_settings import TenantSettings
from sampling.defaults import Layer
from sampling.endpoints import Endpoint
from sampling.layers import NO_DEFAULTS, Resolved
from sampling.limits import NO_LIMITS, Limits
from server.request.metering import UsageCounters


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key, and the tenant that it belongs to (None for an operator's key)."""

    key: Key
    tenant: Tenant | None
    defaults: Layer = NO_DEFAULTS
    """The tenant's sampling defaults."""
    limits: Limits = NO_LIMITS
    """The tenant's limits on what a request may ask for."""

    @property
    def tenant_name(self) -> str:
        """The tenant's name; "" for an operator."""
        return self.tenant.name if self.tenant else ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name stands for: the base model, or one version of an adapter."""

    model: str
    """The public name as the caller wrote it; answers carry it."""
    version: Version | None
    """None for the base model."""
    defaults: Layer = NO_DEFAULTS
    """The adapter version's sampling defaults."""
    is_split: bool = False
    """Whether the name's traffic is split among versions: then each answer is checked for repetition."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One authenticated, routed request. Frozen: of its parts only the counters in `usage` change."""

    request_id: str
    endpoint: Endpoint
    caller: Caller
    target: Target
    sampling: Resolved
    """The body with all sampling defaults filled in, and where each value comes from."""
    tenant_settings: TenantSettings
    cache_salt: str
    limits: Limits = NO_LIMITS
    """The operator's limits that are checked against the tokenized prompt."""
    held: EngineAdapter | None = None
    """The adapter that stays resident until the request ends; None for the base model and before `hold`."""
    debug: bool = False
    """Whether the caller asked for its sampling options and their origins (`x-loragate-debug: 1`)."""
    usage: UsageCounters = field(default_factory=UsageCounters)
    started_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """A whole answer."""

    content: dict[str, Any]
    ignored: tuple[str, ...] = ()
    """Fields of the request that have no meaning here."""


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Server-sent events, each a complete `…\\n\\n` text. The receiver must `aclose` the iterator."""

    events: AsyncGenerator[str]
    ignored: tuple[str, ...] = ()


Answer = JsonAnswer | StreamAnswer
