"""The records that travel a request's path; each stage takes frozen ones and returns a new one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.models import EngineAdapter, Key, Tenant, Version
from adapters.tenant_settings import TenantSettings
from sampling.defaults import Layer
from sampling.layers import NO_DEFAULTS
from sampling.limits import NO_LIMITS, Limits
from server.request.histogram import GAP_BOUNDS_S, TokenGapHistogram


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key, and the tenant that it belongs to (None for an operator's key)."""

    key: Key
    tenant: Tenant | None
    defaults: Layer = NO_DEFAULTS
    """The tenant's decoding defaults."""
    limits: Limits = NO_LIMITS
    """The tenant's limits on what a request may ask for."""

    @property
    def tenant_name(self) -> str:
        """The tenant's name; operators act as the nameless tenant."""
        return self.tenant.name if self.tenant else ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name stands for: the base model, or one version of an adapter."""

    model: str
    """The public name as the caller wrote it; answers carry it."""
    version: Version | None
    """None for the base model."""
    defaults: Layer = NO_DEFAULTS
    """The adapter version's decoding defaults."""
    watched: bool = False
    """Whether the name is split among versions, so that how this one answers may take its traffic."""


@dataclass(slots=True)
class UsageCounters:
    """What one HTTP request has used so far. Times are `time.monotonic()` seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    answers_steered: int = 0
    """Answers that were steered out of a loop (`repetition: "adjust"`)."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    held_at: float | None = None
    scheduled_at: float | None = None
    queue_s: float | None = None
    gap_s: TokenGapHistogram = field(default_factory=lambda: TokenGapHistogram(GAP_BOUNDS_S))
    """Seconds between two tokens of a streamed answer."""
    answers_looped: int = 0
    """Answers that went in circles; looked at only where the version is watched."""
    unseen: list[Callable[[], None]] = field(default_factory=list)
    """Each counts one answer that comes whole, as far as it is; see `look`."""

    def look(self) -> None:
        """Bring the counts of answers that come whole, and are not there yet, up to date."""
        for count in self.unseen:
            count()


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One authenticated, routed request on its way through the gate."""

    request_id: str
    caller: Caller
    target: Target
    policy: TenantSettings
    cache_salt: str
    held: EngineAdapter | None
    """What is resident for this request until it ends; None for the base model, and before it is held."""
    max_tokens_named: bool
    """Whether the request, or a layer of defaults, says how long the answer may be."""
    unplaced: Mapping[str, Any] = field(default_factory=dict)
    """Decoding defaults that this endpoint's requests have no field for; the gate sets them."""
    limits: Limits = NO_LIMITS
    """What of the operator's limits is held against the tokenized prompt."""
    repetition: str = "off"
    """What is done when an answer goes in circles: "off", "stop" or "adjust"."""
    debug: bool = False
    """Whether the caller asked what its decoding options are and where each is from (`x-loragate-debug: 1`)."""
    usage: UsageCounters = field(default_factory=UsageCounters)
    started_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """A whole answer."""

    content: dict[str, Any]
    ignored: tuple[str, ...] = ()
    """Fields of the request that nobody reads."""


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Server-sent events, each a complete `…\\n\\n` text. Whoever takes it must `aclose` the iterator."""

    events: AsyncGenerator[str]
    ignored: tuple[str, ...] = ()


Answer = JsonAnswer | StreamAnswer
