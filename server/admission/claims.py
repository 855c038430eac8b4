"""Whose limits a request must be within: its tenant's, and its key's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adapters.models import Key
from adapters.registry.replicas.leases import LeaseKind
from adapters.tenant_settings import TenantSettings, UsageLimits
from server.admission import checks
from server.admission.account import Account
from server.admission.leased_parts import LeaseShort

#: Before a key's account in the names of accounts; no tenant's name has a colon.
KEY_PREFIX: Final = "key:"


@dataclass(frozen=True, slots=True)
class Claim:
    """One of those whose limits hold."""

    name: str
    """A tenant's name, or KEY_PREFIX and a key's account."""
    account: Account
    limits: UsageLimits


@dataclass(frozen=True, slots=True)
class Need:
    """The most that a request may use."""

    tokens: int
    nanos: int
    sequences: int
    budgeted: bool
    """Whether it counts in the budgets."""


def limits_of(settings: TenantSettings, key: Key | None) -> list[UsageLimits]:
    """The tenant's limits, and the key's if there is one."""
    return [settings] if key is None else [settings, key.limits]


def check_claim(claim: Claim, need: Need, now: float, wall_now: float) -> None:
    """Raises: RateLimited, TooManyConcurrent, BudgetExhausted; LeaseShort: too little is leased."""
    account, limits = claim.account, claim.limits
    if account.leased is not None:
        _check_leases(claim, need)
        return
    checks.check_concurrency(account, limits, need.sequences)
    checks.check_request_rate(account, limits, now)
    checks.check_token_rate(account, limits, need.tokens, now)
    if need.budgeted:
        period_ends_in_s = account.roll_period(limits.budget_period, wall_now)
        checks.check_budget(account, limits, need.tokens, period_ends_in_s)
        checks.check_money(account, limits, need.nanos, period_ends_in_s)


def _check_leases(claim: Claim, need: Need) -> None:
    """Raises: LeaseShort."""
    account = claim.account
    assert account.leased is not None
    account.leased.settings = claim.limits
    wanted = {
        LeaseKind.SEQUENCES: account.sequences + need.sequences,
        LeaseKind.REQUESTS: 1,
        LeaseKind.TOKENS: account.reserved_tokens + need.tokens,
    }
    if need.budgeted:
        wanted[LeaseKind.BUDGET] = account.budget_reserved_tokens + need.tokens
        wanted[LeaseKind.MONEY] = account.reserved_nanos + need.nanos
    _check_held(claim, wanted)


def check_background(claim: Claim, tokens: int, nanos: int, wall_now: float) -> None:
    """The server's own work needs parts of the budgets only. Raises: BudgetExhausted; LeaseShort."""
    account, limits = claim.account, claim.limits
    if account.leased is not None:
        account.leased.settings = limits
        wanted = {
            LeaseKind.BUDGET: account.budget_reserved_tokens + tokens,
            LeaseKind.MONEY: account.reserved_nanos + nanos,
        }
        _check_held(claim, wanted)
        return
    ends_in_s = account.roll_period(limits.budget_period, wall_now)
    checks.check_budget(account, limits, tokens, ends_in_s)
    checks.check_money(account, limits, nanos, ends_in_s)


def _check_held(claim: Claim, wanted: Mapping[LeaseKind, int]) -> None:
    """Raises: LeaseShort."""
    assert claim.account.leased is not None
    if missing := claim.account.leased.missing(wanted):
        raise LeaseShort(claim.name, missing)
