"""Admits or refuses a request at once, in the API process, before anything reaches the engine.

Tokens are *reserved* at entry (prompt + n x max_tokens) and *settled* at exit to the tokens used, so the limits hold
for any interleaving of requests and streams: at each moment, the reserved tokens plus those used in the last 60 s
are at most `tpm`. So is money. A request must be within the limits of its tenant and of its key. Nothing here awaits;
one event loop calls it; each call is O(1).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from adapters.billing.money import to_nanos
from adapters.billing.prices import FREE, Price
from adapters.models import Key
from adapters.tenant_settings import TenantSettings, UsageLimits
from server.admission import checks
from server.admission.account import Account
from server.admission.claims import KEY_PREFIX, Claim, Need, check_background, check_claim, limits_of
from server.admission.leased_parts import LeasedParts
from server.admission.rate_headers import rate_headers
from server.admission.reservation import BackgroundReservation, Reservation
from server.fairness.shares import Capacity, Share


class Admission:
    """Reserves against the limits of each tenant and key.

    Args:
        capacity: blocks and slots of the engine; assign a new one when another engine starts.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, for budget periods.
        shared: whether other servers share the limits; then only what this one has leased is admitted.
    """

    def __init__(
        self,
        capacity: Capacity,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        *,
        shared: bool = False,
    ) -> None:
        self.capacity = capacity
        self._shared = shared
        self._clock = clock
        self._wall_clock = wall_clock
        self._accounts: dict[str, Account] = {}

    def reserve(
        self,
        tenant: str,
        settings: TenantSettings,
        *,
        prompt_tokens: int,
        max_tokens: int,
        n: int = 1,
        price: Price = FREE,
        key: Key | None = None,
    ) -> Reservation:
        """Reserve the most that the request may use and cost, or refuse it; a refusal changes no count.

        Args:
            tenant: the tenant's name; "" is the operator.
            settings: the tenant's limits as they are now; a change holds from this call on.
            prompt_tokens, max_tokens: length of the prompt, and the most that one sequence may generate.
            n: number of generated sequences; the prompt counts once.
            price: of the model's tokens; no discount for cached ones is expected.
            key: whose limits hold, too.

        Raises:
            NeverFits: larger than a limit that waiting does not lift.
            RateLimited: rpm or tpm.
            TooManyConcurrent: max_concurrency.
            BudgetExhausted: token_budget or money_budget.
            LeaseShort: several servers share the limits, and this one has leased too little.
        """
        tokens = prompt_tokens + n * max_tokens
        nanos = price.cost_nanos(
            prompt_tokens=prompt_tokens, cached_tokens=0, generated_tokens=n * max_tokens
        )
        claims = self._claims(tenant, settings, key)
        for claim in claims:
            checks.check_size(
                claim.limits, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n, nanos=nanos
            )
        checks.check_blocks(settings, self.capacity, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        return self._enter(claims, Need(tokens, nanos, n, budgeted=True), price)

    def reserve_tokenizing(
        self, tenant: str, settings: TenantSettings, *, tokens: int, key: Key | None = None
    ) -> Reservation:
        """Reserve for work beside the model, or refuse it: requests, tokens and one place of max_concurrency.

        It needs no KV blocks, costs nothing and counts in no budget, because nothing is generated.

        Args:
            tenant, settings, key: as for `reserve`.
            tokens: an estimate; more than `tpm` needs a whole minute's tokens, so that a long text is not refused
                for ever. The caller settles the reservation to the tokens counted.

        Raises:
            RateLimited: rpm or tpm.
            TooManyConcurrent: max_concurrency.
            LeaseShort: as `reserve`.
        """
        claims = self._claims(tenant, settings, key)
        tokens = min(tokens, *(claim.limits.tpm or tokens for claim in claims))
        return self._enter(claims, Need(tokens, 0, 1, budgeted=False), FREE)

    def reserve_background(
        self,
        tenant: str,
        settings: TenantSettings,
        *,
        prompt_tokens: int,
        max_tokens: int,
        price: Price = FREE,
    ) -> Reservation:
        """Reserve for the server's own work for a tenant: it counts against the tenant's budgets, and no other limit.

        So it takes no place and no rate from the tenant's own requests.

        Raises:
            NeverFits, BudgetExhausted, LeaseShort: as `reserve`.
        """
        only_budget = settings.model_copy(update=dict.fromkeys(("rpm", "tpm", "max_concurrency")))
        tokens = prompt_tokens + max_tokens
        nanos = price.cost_nanos(prompt_tokens=prompt_tokens, cached_tokens=0, generated_tokens=max_tokens)
        checks.check_size(only_budget, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=1, nanos=nanos)
        checks.check_blocks(settings, self.capacity, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        claim = Claim(tenant, self._account(tenant), settings)
        check_background(claim, tokens, nanos, self._wall_clock())
        claim.account.background_tokens += tokens
        claim.account.reserved_nanos += nanos
        return BackgroundReservation((claim.account,), self._clock, tokens, 0, price, nanos)

    def check_budget_left(self, tenant: str, settings: TenantSettings, part: float) -> None:
        """Refuse work that requests should not miss the tokens or the money of.

        Raises:
            BudgetExhausted: at most this part of a budget is left, as far as this server knows.
        """
        account = self._account(tenant)
        ends_in_s = account.roll_period(settings.budget_period, self._wall_clock())
        if settings.token_budget is not None:
            checks.check_budget(account, settings, int(part * settings.token_budget), ends_in_s)
        if settings.money_budget is not None:
            checks.check_money(account, settings, int(part * to_nanos(settings.money_budget)), ends_in_s)

    def check_fits(
        self, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int, n: int = 1
    ) -> None:
        """Refuse a request that could never be served under these settings on this engine.

        Raises:
            NeverFits: the message shows the arithmetic.
        """
        checks.check_size(settings, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n)
        checks.check_blocks(settings, self.capacity, prompt_tokens=prompt_tokens, max_tokens=max_tokens)

    def fitting_max_tokens(
        self,
        settings: TenantSettings,
        *,
        prompt_tokens: int,
        n: int = 1,
        price: Price = FREE,
        key: Key | None = None,
    ) -> int:
        """The largest max_tokens with which no request is refused as too large; below 1: the prompt alone is.

        It replaces the default of requests without max_tokens, the rest of the model's length, which a tenant
        with a small limit could never get.
        """
        blocks = self.capacity.limit_blocks(Share.of(settings))
        rooms = [blocks * self.capacity.block_size_tokens - prompt_tokens + 1]
        for limits in limits_of(settings, key):
            rooms += [(a - prompt_tokens) // n for a in (limits.tpm, limits.token_budget) if a is not None]
            if limits.money_budget is not None and price.generated_micros:
                picos = to_nanos(limits.money_budget) * 1000 - prompt_tokens * price.prompt_micros
                rooms.append(picos // (n * price.generated_micros))
        return min(rooms)

    def headers(self, tenant: str, settings: TenantSettings, key: Key | None = None) -> dict[str, str]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that are set."""
        names = [tenant, KEY_PREFIX + key.account] if key else [tenant]
        accounts = [self._accounts.get(name) or Account() for name in names]
        return rate_headers(zip(accounts, limits_of(settings, key), strict=True), self._clock())

    def restore_budget(
        self, name: str, limits: UsageLimits, *, used_tokens: int, used_nanos: int = 0
    ) -> None:
        """Set what the usage ledger counted in this period: after a restart, before the first request.

        Args:
            name: the tenant, or KEY_PREFIX and a key's account.
            limits: its limits, which name the period.
        """
        account = self._account(name)
        account.restore_period(limits.budget_period, self._wall_clock(), used_tokens, used_nanos)

    def reserved_tokens(self, tenant: str) -> int:
        """The tokens that the tenant's running requests may still use."""
        account = self._accounts.get(tenant)
        return account.reserved_tokens if account else 0

    @property
    def accounts(self) -> dict[str, Account]:
        """The accounts of all tenants and keys that have sent a request, by name."""
        return self._accounts

    def _claims(self, tenant: str, settings: TenantSettings, key: Key | None) -> list[Claim]:
        claims = [Claim(tenant, self._account(tenant), settings)]
        if key is not None:
            name = KEY_PREFIX + key.account
            claims.append(Claim(name, self._account(name), key.limits))
        return claims

    def _enter(self, claims: list[Claim], need: Need, price: Price) -> Reservation:
        """Reserve from all, or from none. Raises: as `reserve`."""
        now, wall_now = self._clock(), self._wall_clock()
        for claim in claims:
            check_claim(claim, need, now, wall_now)
        for claim in claims:
            claim.account.enter(now, tokens=need.tokens, nanos=need.nanos, sequences=need.sequences)
        accounts = tuple(claim.account for claim in claims)
        return Reservation(
            accounts, self._clock, need.tokens, need.sequences, price, need.nanos, _budgeted=need.budgeted
        )

    def _account(self, name: str) -> Account:
        if name not in self._accounts:
            parts = LeasedParts(self._clock) if self._shared else None
            self._accounts[name] = Account(leased=parts)
        return self._accounts[name]
