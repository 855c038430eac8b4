"""The records of one request: who calls, what answers, and what it has used. Stages pass them on;
only `held` is set later, on a copy that shares `usage`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from adapters.billing.prices import FREE, Price
from adapters.lifecycle.blends.blending import ScaledVersion
from adapters.models import EngineAdapter, Key, Tenant, Version
from adapters.tenant_settings import TenantSettings
from sampling.defaults import Layer
from sampling.endpoints import Endpoint
from sampling.limits import NO_LIMITS, Limits
from sampling.resolution import NO_DEFAULTS, Resolved
from server.request.body import Body
from server.request.event_loop import pause
from server.request.latency_histogram import GAP_BOUNDS_S, LatencyHistogram


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key, and the tenant that it belongs to (None for an operator's key).

    For a person who signed in, the key has the session's id and role, and no secret.
    """

    key: Key
    tenant: Tenant | None
    defaults: Layer = NO_DEFAULTS
    """The tenant's sampling defaults."""
    limits: Limits = NO_LIMITS
    """The tenant's limits on what a request may ask for."""
    person: str = ""
    """Who signed in, as the audit log shows it; "" for a key."""
    read_only: bool = False
    """Whether it may look at things and change nothing."""

    @property
    def tenant_name(self) -> str:
        """The tenant's name; "" for an operator."""
        return self.tenant.name if self.tenant else ""


@dataclass(frozen=True, slots=True)
class ShadowTarget:
    """A version that gets copies of a part of the requests; they are counted under the name of `caller`."""

    version: Version
    share: float
    caller: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name stands for: the base model, one version of an adapter, or a blend of several."""

    model: str
    """The public name as the caller wrote it; answers carry it."""
    version: Version | None
    """None for the base model; of a blend a stand-in that is counted under the names of its adapters, number 0."""
    defaults: Layer = NO_DEFAULTS
    """The adapter version's sampling defaults."""
    is_split: bool = False
    """Whether the name's traffic is split among versions: then each answer is checked for repetition."""
    blend: tuple[ScaledVersion, ...] = ()
    """The versions that answer together, if the request names several with `adapters`."""
    shadow: ShadowTarget | None = None
    """Where a copy of the request may go (`server.background.shadows`)."""


@dataclass(slots=True)
class UsageCounters:
    """What one HTTP request has used so far. Times are `time.monotonic()` seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    answers_steered: int = 0
    """Answers that the engine steered out of a repetition loop (`repetition: "adjust"`)."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    held_at: float | None = None
    """When the adapter was resident and the gate had admitted the request."""
    lease_s: float = 0.0
    """The wait for a part of a limit that several servers share."""
    scheduled_at: float | None = None
    queue_s: float | None = None
    gap_s: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(GAP_BOUNDS_S))
    """Seconds between two tokens of a streamed answer."""
    has_form: bool = False
    """Whether the caller prescribed a form (schema, expression, grammar), which then decides what the answer says."""
    answers_looped: int = 0
    """Answers that repeated themselves; counted only where the target's traffic is split."""
    unstreamed: list[Callable[[], None]] = field(default_factory=list)
    """One function per unstreamed answer, which counts the tokens that the engine has generated so far."""

    def refresh(self) -> None:
        """Count what the engine has generated so far of unstreamed answers."""
        for count in self.unstreamed:
            count()


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
    price: Price = FREE
    """Of the target's tokens, when the request came."""
    limits: Limits = NO_LIMITS
    """The operator's limits that are checked against the tokenized prompt."""
    body: Body = field(default_factory=lambda: Body({}))
    """The body as it was read; of a large one without its prompt."""
    held: EngineAdapter | None = None
    """The adapter that stays resident until the request ends; None for the base model and before `hold`."""
    background: bool = False
    """Whether it is the server's own work, which takes only what others leave; never a caller's choice."""
    debug: bool = False
    """Whether the caller asked for its sampling options and their origins (`x-loragate-debug: 1`)."""
    usage: UsageCounters = field(default_factory=UsageCounters)
    started_at: float = field(default_factory=time.monotonic)


#: Characters of a whole answer that are sent together.
_PART_CHARACTERS = 256 << 10


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """A whole answer."""

    content: dict[str, Any]
    ignored: tuple[str, ...] = ()
    """Fields of the request that have no meaning here."""
    pieces: list[str] | None = None
    """The answer as JSON, where it was written in pieces because it is long; `content` has placeholders in it."""

    async def parts(self) -> list[bytes]:
        """The pieces in UTF-8, joined to larger parts, with a pause for the event loop after each."""
        parts: list[bytes] = []
        part: list[str] = []
        characters = 0
        for piece in [*(self.pieces or ()), None]:
            if piece is None or characters > _PART_CHARACTERS:
                parts.append("".join(part).encode())
                part, characters = [], 0
                await pause()
            part.append(piece or "")
            characters += len(piece or "")
        return parts


class PartWriter(Protocol):
    """Writes parts of a response's body past the task that sends it; that one writes what is kept before its own."""

    def is_ready(self) -> bool:
        """Whether a part can be written now: the client is there, and it has read most of what was sent."""

    def keep(self, text: str) -> None:
        """Add to what `flush` writes; call it only while `is_ready`."""

    def flush(self) -> None:
        """Write what is kept, if the client is still there."""


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Server-sent events, one or more complete `…\\n\\n` texts at a time; an error comes alone.

    The receiver must `aclose` the iterator.
    """

    events: AsyncGenerator[str]
    ignored: tuple[str, ...] = ()
    shortcut: Callable[[PartWriter], None] | None = None
    """Lets the engine's outputs be written straight to the body, while the receiver waits for the next event.

    The receiver may call it, after it has sent the first event.
    """


Answer = JsonAnswer | StreamAnswer
