"""Response models of /admin/v1, except for records of `adapters.models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from adapters.lifecycle.drift_log import DriftRecord
from adapters.lifecycle.fetch_progress import FetchProgress
from adapters.models import AliasChange, IssuedKey, Rating, Role, Version
from adapters.residency import SlotView
from adapters.tenant_settings import KeyLimits, TenantSettings
from server.api.admin.adapters.evaluation_info import EvaluationInfo

Item = TypeVar("Item")


class Listing(BaseModel, Generic[Item]):
    """A list of records."""

    data: Sequence[Item]


class _Named(BaseModel):
    name: str


class TenantInfo(TenantSettings, _Named):
    """A tenant with its settings; pydantic lists the fields of the last base first."""

    created_at: datetime | None


class KeyInfo(BaseModel):
    """A key without its hash and its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    tenant: str | None
    role: Role
    prefix: str
    models: tuple[str, ...] | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    note: str
    limits: KeyLimits
    account: str
    """What its usage is counted under: of a rotated key the id of the first one."""


class NewKey(KeyInfo):
    """A new key. Only this answer shows its secret."""

    secret: str

    @classmethod
    def of(cls, issued: IssuedKey) -> Self:
        """The answer that shows the secret."""
        return cls(**dict(KeyInfo.model_validate(issued.key)), secret=issued.secret)


class AuditInfo(BaseModel):
    """One change: who made it, with which key, what it was, and when."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    actor: str
    key_id: str | None
    action: str
    subject: str
    details: dict[str, Any]


class TargetInfo(BaseModel):
    """One version of an alias and its share of the traffic, relative to the other weights."""

    version: int
    weight: float


class AliasInfo(BaseModel):
    """What an adapter's public name stands for; `generation` grows with each change."""

    generation: int
    targets: list[TargetInfo]


class ChangedAlias(AliasInfo):
    """An alias after a change; `proven_on`: ids of the servers that have loaded and probed its versions."""

    proven_on: list[str]


class ServerInfo(BaseModel):
    """One of the servers that share the registry; `seen_at` is null where it has the registry to itself."""

    id: str
    url: str
    version: str
    serves: bool
    seen_at: datetime | None


class ClusterServer(BaseModel):
    """A server behind a front: its load, and what it holds; null where it did not answer the front."""

    id: str
    """As the header `x-loragate-server` and the label `replica` name it; without a front, the registry's id."""
    server: str | None
    """Its id in the registry, as /admin/v1/servers has it."""
    url: str | None
    version: str | None
    state: str
    """starting, ready, restarting, draining, or `unreachable`."""
    in_flight: int | None
    waiting: int | None
    kv_use: float | None
    """Share of the KV cache in use, 0 to 1."""
    slots: int | None
    """With how many adapters it computes at once."""
    computing: list[str] | None
    """Adapters of the requests in flight."""
    held: list[str] | None
    """Adapters in its memory."""


class DrainedServer(BaseModel):
    """A server that finishes its requests and then ends."""

    id: str
    in_flight: int


@dataclass(frozen=True, kw_only=True)
class VersionInfo(Version):
    """One version of an adapter, as the registry and this server process know it."""

    __pydantic_config__ = ConfigDict(json_schema_serialization_defaults_required=True)

    slot: SlotView | None
    fetching: FetchProgress | None
    drifted: DriftRecord | None
    damaged: bool
    warnings: list[str]


class EffectiveOption(BaseModel):
    """The value of a decoding option and the layer that set it."""

    value: Any
    origin: str = Field(alias="from")


@dataclass(frozen=True, kw_only=True)
class VersionDetails(VersionInfo):
    """A version with the decoding options of a chat request that names none."""

    decoding: dict[str, EffectiveOption]


class AdapterInfo(BaseModel):
    """An adapter with its versions."""

    tenant: str
    name: str
    model: str
    alias: AliasInfo
    condition: str | None
    """The condition without which no version gets traffic."""
    versions: Sequence[VersionInfo]


class AdapterDetails(AdapterInfo):
    """An adapter with its versions in detail, the changes of its alias (newest first), and when it was reconciled."""

    versions: Sequence[VersionDetails]
    history: Sequence[AliasChange]
    evaluations: Sequence[EvaluationInfo]
    compared_with_engine_at: datetime | None


class FeedbackInfo(BaseModel):
    """A rating; `messages` is the length of the chat that came with it."""

    tenant: str
    request_id: str
    adapter: str
    version: int
    rating: Rating
    at: datetime
    reason: str
    comment: str
    messages: int


class UsageRow(BaseModel):
    """The use of one hour, day or month that begins at `from` (UTC)."""

    begins: datetime = Field(alias="from")
    tenant: str
    adapter: str
    version: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    kv_block_seconds: float
    queue_s: float
    run_s: float
    cost: str
    """By the prices of each hour, exact."""
    currency: str


class KeyUsageRow(BaseModel):
    """The use of one key in one hour, day or month that begins at `from` (UTC)."""

    begins: datetime = Field(alias="from")
    tenant: str
    key: str
    adapter: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    cost: str
    currency: str
