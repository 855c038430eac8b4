"""The records of this package: frozen, compared by value, safe to hand around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from adapters.names import public_name
from adapters.tenant_settings import TenantSettings


class Role(StrEnum):
    """What a key may do."""

    INFERENCE = "inference"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"


class VersionState(StrEnum):
    """Where a version stands; `adapters.lifecycle.TRANSITIONS` has the legal moves.

    RESIDENT is true of one running process, so it is never written to the database: there it is READY.
    """

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
    """Who makes a change, for the audit: a readable name and, where one was used, the key's id."""

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
    prefix: str  # the first characters of the secret, to tell keys apart in a listing
    sha256: str  # hex digest of the secret
    models: tuple[str, ...] | None  # public names it may call; None: all of its tenant's
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    note: str = ""

    def is_valid(self, now: datetime) -> bool:
        """Whether the key may be used at `now` (a revocation may lie in the future, after a rotation)."""
        return all(end is None or now < end for end in (self.expires_at, self.revoked_at))


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key with its secret: shown once, stored nowhere."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A name of a tenant under which versions are published."""

    tenant: str
    name: str
    created_at: datetime
    removed_at: datetime | None = None

    @property
    def public_name(self) -> str:
        """`<tenant>-<adapter>`."""
        return public_name(self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """An adapter as the engine knows it; id, name and path are all unique to one version."""

    engine_id: int  # > 0, never used twice
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
    digest: str | None = None  # sha256 hex, known from `verified` on
    rank: int | None = None
    size_bytes: int | None = None
    error: str | None = None  # why it failed
    pinned: bool = False
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None  # training.json, where the trainer left one

    @property
    def public_name(self) -> str:
        """`<tenant>-<adapter>`."""
        return public_name(self.tenant, self.adapter)

    @property
    def engine_name(self) -> str:
        """`<tenant>/<adapter>@<number>#<digest12>`; vLLM keys its prefix cache by it and the path."""
        return f"{self.tenant}/{self.adapter}@{self.number}#{(self.digest or '')[:12]}"

    def engine_adapter(self, path: Path) -> EngineAdapter:
        """The version as the engine knows it, with its folder in the store."""
        return EngineAdapter(self.engine_id, self.engine_name, path)


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """One version of an alias and its weight; only the ratio of weights matters."""

    number: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Alias:
    """What a public name stands for at present. Generation 0 with no targets: never promoted."""

    tenant: str
    adapter: str
    generation: int
    targets: tuple[AliasTarget, ...]
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One entry of an alias's history, newest first in listings."""

    generation: int
    targets: tuple[AliasTarget, ...]
    at: datetime
    by: str
    restored: int | None = None  # for a rollback: the generation whose targets it brought back


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter with its alias and versions, as listings and routing need it."""

    adapter: Adapter
    alias: Alias
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who changed what, and when."""

    id: int
    at: datetime
    actor: str
    key_id: str | None
    action: str  # e.g. "alias.set"
    subject: str  # e.g. "acme-support@3"
    details: Mapping[str, Any]


class Rating(StrEnum):
    """What a user thinks of an answer."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a user said about one answer. `tenant` "" is the operator asking the base model."""

    tenant: str
    request_id: str
    adapter: str  # "" for the base model, as in the ledger
    version: int  # 0 for the base model
    rating: Rating
    at: datetime
    reason: str = ""
    comment: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None  # a chat to learn from, where one was sent along


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used in one hour (or, summed, in a range). `version` 0 and `adapter` "" mean the base."""

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
