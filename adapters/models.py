"""The records of this package: frozen and compared by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from adapters.names import public_name
from adapters.tenant_settings import NO_KEY_LIMITS, KeyLimits, TenantSettings


class Role(StrEnum):
    """What a key may do."""

    INFERENCE = "inference"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"


class VersionState(StrEnum):
    """The state; `adapters.registry.state_machine` has the legal changes. The database has READY for RESIDENT."""

    REGISTERED = "registered"
    FETCHED = "fetched"
    VERIFIED = "verified"
    READY = "ready"
    RESIDENT = "resident"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, for the audit log: a readable name and, where a key was used, its id."""

    name: str
    key_id: str | None = None


SYSTEM = Actor("system")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer."""

    name: str
    settings: TenantSettings = field(default_factory=TenantSettings)
    created_at: datetime | None = None  # set by the registry

    def as_dict(self) -> dict[str, Any]:
        """Name, settings and time of creation on one level, as the database, the API and the CLI show them."""
        return {"name": self.name, **self.settings.model_dump(), "created_at": self.created_at}


@dataclass(frozen=True, slots=True)
class Key:
    """A bearer key without its secret. `tenant` is None for an operator's key only."""

    id: str
    tenant: str | None
    role: Role
    prefix: str  # the first characters of the secret, which identify a key in a listing
    sha256: str  # hex digest of the secret
    models: tuple[str, ...] | None  # public names that it may call; None: all names of its tenant
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    note: str = ""
    limits: KeyLimits = NO_KEY_LIMITS
    account: str = ""  # what its usage is counted under: its id, or that of the first key that it replaces

    def is_valid(self, now: datetime) -> bool:
        """Whether the key is valid at `now` (after a rotation its revocation lies in the future)."""
        return all(end is None or now < end for end in (self.expires_at, self.revoked_at))


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key with its secret, which is shown once and stored nowhere."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A name under which a tenant publishes versions."""

    tenant: str
    name: str
    created_at: datetime
    removed_at: datetime | None = None
    condition: str | None = None  # the one without which no version is promoted (`adapters.promotion`)
    shadow: Mapping[str, Any] | None = None  # `adapters.registry.figures.shadows.Shadow.as_dict`

    @property
    def public_name(self) -> str:
        """`<tenant>-<adapter>`."""
        return public_name(self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """The engine's identification of an adapter; id, name and path are unique to one version."""

    engine_id: int  # > 0, never reused
    engine_name: str
    path: Path  # the version's own folder in the store


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable state of an adapter's weights."""

    tenant: str
    adapter: str
    number: int
    engine_id: int
    state: VersionState
    source: str
    created_at: datetime
    digest: str | None = None  # sha256 hex; set from `verified` on
    rank: int | None = None
    size_bytes: int | None = None
    error: str | None = None  # the reason, for a failed version
    pinned: bool = False
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None  # the content of training.json, if there is one
    brought: Mapping[str, Any] | None = None  # facts about its other files; `adapters.artifact.provenance`
    owner: str | None = None  # the server that adds it, or has added it
    recipe: Mapping[str, Any] | None = None  # of a blend: `adapters.lifecycle.blends.blending.Recipe.as_dict`

    @property
    def public_name(self) -> str:
        """`<tenant>-<adapter>`."""
        return public_name(self.tenant, self.adapter)

    @property
    def engine_name(self) -> str:
        """`<tenant>/<adapter>@<number>#<digest12>`; vLLM keys its prefix cache by it and the path."""
        return f"{self.tenant}/{self.adapter}@{self.number}#{(self.digest or '')[:12]}"


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """One version of an alias, and its weight relative to the others."""

    number: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Alias:
    """The versions that a public name points at. Generation 0 without targets: never promoted."""

    tenant: str
    adapter: str
    generation: int
    targets: tuple[AliasTarget, ...]
    updated_at: datetime | None = None
    proven_on: tuple[str, ...] = field(default=(), compare=False)
    """In the answer to a change: the servers that have loaded and probed the versions."""


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One entry of an alias's history, newest first in listings."""

    generation: int
    targets: tuple[AliasTarget, ...]
    at: datetime
    by: str
    restored: int | None = None  # for a rollback: the generation whose targets it restored


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter with its alias and versions, for listings and routing."""

    adapter: Adapter
    alias: Alias
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: who made it, what it was, and when."""

    id: int
    at: datetime
    actor: str
    key_id: str | None
    action: str  # e.g. "alias.set"
    subject: str  # e.g. "acme-support@3"
    details: Mapping[str, Any]


class Rating(StrEnum):
    """A user's rating of an answer."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A user's feedback on one answer. Tenant "" is the operator."""

    tenant: str
    request_id: str
    adapter: str  # "" for the base model, as in the usage table
    version: int  # 0 for the base model
    rating: Rating
    at: datetime
    reason: str = ""
    comment: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None  # a chat to train on, if one was sent


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage in one hour (or, summed, in a range). Version 0 and adapter "" are the base model."""

    tenant: str
    adapter: str
    version: int
    hour: datetime  # start of the hour, UTC
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    kv_block_seconds: float = 0.0
    queue_s: float = 0.0
    run_s: float = 0.0
    key: str = ""  # `Key.account` of the key that was used; "" in sums over all keys


@dataclass(frozen=True, slots=True)
class BatchId:
    """Identifies a batch of usage, which may be sent again; a writer numbers its batches in the order of sending."""

    writer: str  # unique to one process, at most 32 characters
    sequence: int  # from 1
