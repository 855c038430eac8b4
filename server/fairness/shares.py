"""What a tenant is entitled to: its share, the stamp that carries it to the engine, and the sum of all guarantees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.errors import LoragateError

#: Key of the stamp in `sampling_params.extra_args`, and of our options in vLLM's `additional_config`.
STAMP_KEY = "loragate"

#: Ends the scheduler's names of background requests; a tenant's name has no slash.
_BACKGROUND = "/background"

#: The settings of the operator's own requests.
OPERATOR_SETTINGS = TenantSettings()


class InvalidStamp(LoragateError):
    """A request's stamp cannot be read."""


class GuaranteesTooLarge(LoragateError):
    """The guarantees of all tenants add up to more than the engine has."""


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant's part of the engine; it travels with each request to the scheduler.

    `guarantee` and `limit` are shares (0 to 1) of the KV blocks and, in the same way, of the sequence slots.
    `background`: it takes only what all others leave (`server.fairness.background`), and has no guarantee.
    The default is the share of a request without a tenant, the operator's.
    """

    weight: float = 1.0
    guarantee: float = 0.0
    limit: float = 1.0
    background: bool = False

    @classmethod
    def of(cls, settings: TenantSettings) -> Self:
        """The part of a tenant's settings that the scheduler needs."""
        return cls(settings.weight, settings.kv_guarantee, settings.kv_limit)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The blocks and slots of one engine that tenants share.

    `kv_blocks` are the blocks that requests can use: vLLM's `num_gpu_blocks` less its one null block.
    """

    kv_blocks: int
    block_size_tokens: int
    max_num_seqs: int

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size_tokens)

    def guaranteed_blocks(self, share: Share) -> int:
        """Rounded down, so that guarantees that fit as shares also fit as blocks."""
        return int(share.guarantee * self.kv_blocks + 1e-9)

    def limit_blocks(self, share: Share) -> int:
        """Rounded down, but at least 1, so that a tiny share can still run something."""
        return max(1, int(share.limit * self.kv_blocks + 1e-9))

    def guaranteed_slots(self, share: Share) -> int:
        """Rounded down, but at least 1 for any guarantee above zero."""
        slots = int(share.guarantee * self.max_num_seqs + 1e-9)
        return max(1, slots) if share.guarantee > 0 else 0

    def limit_slots(self, share: Share) -> int:
        """Rounded down, but at least 1."""
        return max(1, int(share.limit * self.max_num_seqs + 1e-9))


def background_name(tenant: str) -> str:
    """The name under which the scheduler counts a tenant's background requests; no tenant can have it."""
    return tenant + _BACKGROUND


def tenant_of(name: str) -> str:
    """The tenant that one of the scheduler's names stands for."""
    return name.removesuffix(_BACKGROUND)


def is_background(name: str) -> bool:
    """Whether the scheduler's name of a tenant stands for its background requests."""
    return name.endswith(_BACKGROUND)


def stamp(tenant: str, settings: TenantSettings, *, background: bool = False) -> dict[str, Any]:
    """The tenant's share, as a request carries it to the engine under STAMP_KEY in `sampling_params.extra_args`.

    `background`: it is the server's own work for this tenant. NOTE: never of what a caller sends.
    """
    return {
        **({"background": True} if background else {}),
        "tenant": tenant,
        "policy": {
            "weight": settings.weight,
            "kv_guarantee": settings.kv_guarantee,
            "kv_limit": settings.kv_limit,
        },
    }


def read_stamp(stamped: Mapping[str, Any] | None) -> tuple[str, Share]:
    """The inverse of `stamp`; a request without one is the operator's (tenant "").

    A background request has its tenant's `background_name`, and no guarantee.

    Its values are not checked again: only the gate writes stamps, from `TenantSettings`.

    Raises:
        InvalidStamp: it is not one of ours.
    """
    if stamped is None:
        return "", Share()
    try:
        policy = stamped["policy"]
        if stamped.get("background") is True:
            share = Share(policy["weight"], 0.0, policy["kv_limit"], background=True)
            return background_name(stamped["tenant"]), share
        return stamped["tenant"], Share(policy["weight"], policy["kv_guarantee"], policy["kv_limit"])
    except (KeyError, TypeError) as error:
        raise InvalidStamp("The request's stamp lacks the tenant or its policy.") from error


def check_guarantees(tenants: Iterable[Tenant]) -> None:
    """Refuse guarantees of all tenants that no engine could keep at the same time.

    Raises:
        GuaranteesTooLarge: their sum is above 1; the message shows the sum.
    """
    shares = {t.name: t.settings.kv_guarantee for t in tenants if t.settings.kv_guarantee > 0}
    total = sum(shares.values())
    if total <= 1 + 1e-9:
        return
    terms = " + ".join(f"{share:g} ({name})" for name, share in sorted(shares.items(), key=lambda s: -s[1]))
    raise GuaranteesTooLarge(
        f"kv_guarantee adds up to {total:g}, above 1: {terms}. Lower some of them by {total - 1:g} in all."
    )
