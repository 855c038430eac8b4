"""Budgets of tenants and keys: how much of them is used, from the usage tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from adapters.billing.money import to_micros
from adapters.models import Key
from adapters.registry import Registry
from adapters.registry.billing.spending import Spent
from adapters.tenant_settings import NO_KEY_LIMITS, BudgetPeriod, UsageLimits
from server.admission import Admission
from server.admission.account import period_end
from server.admission.claims import KEY_PREFIX
from server.usage.aggregation import period_start

_PICOS_PER_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget in its present period."""

    tenant: str
    """"" for an operator's key."""
    key: str
    """The key's account; "" for the tenant's own budget."""
    budget: str
    """`token_budget` or `money_budget`."""
    period: BudgetPeriod
    begins: datetime
    ends: datetime
    allowed: int
    """Tokens, or 1e-12 of the currency."""
    used: int
    """The same; may be above `allowed` where a budget was lowered."""

    @property
    def owner(self) -> str:
        """The name of the account in admission."""
        return KEY_PREFIX + self.key if self.key else self.tenant

    @property
    def percent(self) -> int:
        """Whole percents that are used."""
        return 100 * self.used // self.allowed


async def restore_budgets(registry: Registry, admission: Admission, now: datetime) -> None:
    """Charge the usage of the current day and month to the budgets: a restart must not refill them.

    Keys without limits are charged, too: they may get some later. Raises: RegistryUnavailable.
    """
    of_tenants, of_keys = await _spent(registry, now)
    for tenant in await registry.tenants.list():
        spent = of_tenants[tenant.settings.budget_period].get(tenant.name, Spent())
        _restore(admission, tenant.name, tenant.settings, spent)
    limits = {key.account: key.limits for key in await registry.keys.list()}
    for account in of_keys[BudgetPeriod.MONTH].keys() | limits.keys():
        limit = limits.get(account, NO_KEY_LIMITS)
        spent = of_keys[limit.budget_period].get(account, Spent())
        _restore(admission, KEY_PREFIX + account, limit, spent)


async def budget_states(registry: Registry, now: datetime, tenant: str | None = None) -> list[BudgetState]:
    """All budgets of one tenant and its keys, or of all. Raises: RegistryUnavailable."""
    of_tenants, of_keys = await _spent(registry, now, tenant)
    states = []
    for owner in await registry.tenants.list():
        if tenant in (None, owner.name):
            spent = of_tenants[owner.settings.budget_period].get(owner.name, Spent())
            states += _states(owner.name, "", owner.settings, spent, now)
    for key in _newest(await registry.keys.list(tenant), now):
        spent = of_keys[key.limits.budget_period].get(key.account, Spent())
        states += _states(key.tenant or "", key.account, key.limits, spent, now)
    return states


async def _spent(
    registry: Registry, now: datetime, tenant: str | None = None
) -> tuple[Mapping[BudgetPeriod, Mapping[str, Spent]], Mapping[BudgetPeriod, Mapping[str, Spent]]]:
    """What tenants, and keys, have used in the current day and month; one tenant and its keys, or all."""
    spending, starts = registry.spending, {period: period_start(period, now) for period in BudgetPeriod}
    return (
        {period: await spending.of_tenants(start, tenant) for period, start in starts.items()},
        {period: await spending.of_keys(start, tenant) for period, start in starts.items()},
    )


def _restore(admission: Admission, name: str, limits: UsageLimits, spent: Spent) -> None:
    nanos = -(-spent.cost_picos // 1000)
    admission.restore_budget(name, limits, used_tokens=spent.tokens, used_nanos=nanos)


def _newest(keys: Iterable[Key], now: datetime) -> Iterable[Key]:
    """The valid keys; of those that replace each other only the newest."""
    return {key.account: key for key in keys if key.is_valid(now)}.values()


def _states(tenant: str, key: str, limits: UsageLimits, spent: Spent, now: datetime) -> list[BudgetState]:
    period = limits.budget_period
    begins = period_start(period, now)
    ends = datetime.fromtimestamp(period_end(period, now.timestamp()), UTC)
    states = []
    if limits.token_budget is not None:
        states.append(
            BudgetState(tenant, key, "token_budget", period, begins, ends, limits.token_budget, spent.tokens)
        )
    if limits.money_budget is not None:
        allowed = to_micros(limits.money_budget) * _PICOS_PER_MICRO
        states.append(
            BudgetState(tenant, key, "money_budget", period, begins, ends, allowed, spent.cost_picos)
        )
    return states
