"""What a tenant is entitled to: its policy, the part that rides to the engine, the sums that must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from adapters.models import BudgetPeriod, Tenant
from server.errors import LoragateError

#: A tenant that was given no policy; also the operator's own requests.
DEFAULT_WEIGHT = 1.0


class InvalidPolicy(LoragateError):
    """The tenant's policy cannot be used."""


class GuaranteesTooLarge(InvalidPolicy):
    """The guarantees of all tenants add up to more than the engine has."""


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant's part of the engine; rides with each request to the scheduler.

    `guarantee` and `limit` are shares (0..1) of the KV blocks and, in the same way, of the sequence slots.
    """

    weight: float = DEFAULT_WEIGHT
    guarantee: float = 0.0
    limit: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise InvalidPolicy(f"weight is {self.weight}; it must be above 0.")
        if not 0 <= self.guarantee <= 1:
            raise InvalidPolicy(f"kv_guarantee is {self.guarantee}; it must lie between 0 and 1.")
        if not 0 < self.limit <= 1:
            raise InvalidPolicy(f"kv_limit is {self.limit}; it must lie above 0 and at most at 1.")
        if self.guarantee > self.limit:
            raise InvalidPolicy(
                f"kv_guarantee {self.guarantee} is above kv_limit {self.limit}; "
                "raise the limit or lower the guarantee."
            )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one engine has to share out.

    `kv_blocks` are the blocks requests can use: vLLM's `num_gpu_blocks` less one, its null block.
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
        """Rounded down; never 0, so that a tiny share can still run something."""
        return max(1, int(share.limit * self.kv_blocks + 1e-9))

    def guaranteed_slots(self, share: Share) -> int:
        """Rounded down, but one slot for any guarantee above zero."""
        slots = int(share.guarantee * self.max_num_seqs + 1e-9)
        return max(1, slots) if share.guarantee > 0 else 0

    def limit_slots(self, share: Share) -> int:
        """Rounded down; never 0."""
        return max(1, int(share.limit * self.max_num_seqs + 1e-9))


@dataclass(frozen=True, slots=True)
class Policy:
    """All limits of one tenant. None means unlimited."""

    weight: float = DEFAULT_WEIGHT
    kv_guarantee: float = 0.0
    kv_limit: float = 1.0
    max_concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    token_budget: int | None = None
    budget_period: BudgetPeriod = BudgetPeriod.MONTH

    def __post_init__(self) -> None:
        Share(self.weight, self.kv_guarantee, self.kv_limit)
        for name in ("max_concurrency", "rpm", "tpm", "token_budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidPolicy(f"{name} is {value}; it must be at least 1, or unset for no limit.")

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """The policy in a tenant's record.

        Raises:
            InvalidPolicy: a value is out of its range.
        """
        return cls(
            weight=tenant.weight,
            kv_guarantee=tenant.kv_guarantee,
            kv_limit=tenant.kv_limit,
            max_concurrency=tenant.max_concurrency,
            rpm=tenant.rpm,
            tpm=tenant.tpm,
            token_budget=tenant.token_budget,
            budget_period=tenant.budget_period,
        )

    @property
    def share(self) -> Share:
        """The part that the scheduler needs."""
        return Share(self.weight, self.kv_guarantee, self.kv_limit)


#: The policy of the operator's own requests.
OPERATOR_POLICY = Policy()


def stamp(tenant: str, policy: Policy) -> dict[str, Any]:
    """What a request carries to the engine under the gate's key in `sampling_params.extra_args`."""
    return {
        "tenant": tenant,
        "policy": {
            "weight": policy.weight,
            "kv_guarantee": policy.kv_guarantee,
            "kv_limit": policy.kv_limit,
        },
    }


def read_stamp(stamped: Mapping[str, Any] | None) -> tuple[str, Share]:
    """The inverse of `stamp`; a request without one is the operator's (tenant "").

    Raises:
        InvalidPolicy: the stamp is not one of ours.
    """
    if stamped is None:
        return "", OPERATOR_POLICY.share
    try:
        policy = stamped["policy"]
        return stamped["tenant"], Share(policy["weight"], policy["kv_guarantee"], policy["kv_limit"])
    except (KeyError, TypeError) as error:
        raise InvalidPolicy("The request's stamp lacks the tenant or its policy.") from error


def check_guarantees(policies: Mapping[str, Policy]) -> None:
    """Refuse guarantees that no engine could keep at the same time.

    Args:
        policies: tenant name → policy, of all tenants.

    Raises:
        GuaranteesTooLarge: the sum is above 1; the message shows the sum.
    """
    shares = {name: policy.kv_guarantee for name, policy in policies.items() if policy.kv_guarantee > 0}
    total = sum(shares.values())
    if total <= 1 + 1e-9:
        return
    terms = " + ".join(f"{share:g} ({name})" for name, share in sorted(shares.items(), key=lambda s: -s[1]))
    raise GuaranteesTooLarge(
        f"kv_guarantee adds up to {total:g}, above 1: {terms}. Lower some of them by {total - 1:g} in all."
    )
