"""Admits or refuses a request at once, in the API process, before anything reaches the engine.

Tokens are *reserved* at entry (prompt + n x max_tokens) and *settled* at exit to the tokens used, so the limits hold
for any interleaving of requests and streams: at each moment, the reserved tokens plus those used in the last 60 s
are at most `tpm`. Nothing here awaits; one event loop calls it; each call is O(1).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from adapters.registry.replicas.leases import LeaseKind
from adapters.tenant_settings import TenantSettings
from server.admission import checks
from server.admission.account import Account
from server.admission.leased_parts import LeasedParts, LeaseShort
from server.admission.reservation import BackgroundReservation, Reservation
from server.fairness.shares import Capacity, Share


class Admission:
    """Reserves against the limits of each tenant.

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
        self, tenant: str, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int, n: int = 1
    ) -> Reservation:
        """Reserve the most that the request may use, or refuse it; a refusal changes no count.

        Args:
            tenant: the tenant's name; "" is the operator.
            settings: the tenant's limits as they are now; a change holds from this call on.
            prompt_tokens: length of the prompt.
            max_tokens: the maximum of tokens that one sequence may generate.
            n: number of generated sequences; the prompt counts once.

        Raises:
            NeverFits: larger than a limit that waiting does not lift.
            RateLimited: rpm or tpm.
            TooManyConcurrent: max_concurrency.
            BudgetExhausted: token_budget.
            LeaseShort: several servers share the limits, and this one has leased too little.
        """
        tokens = prompt_tokens + n * max_tokens
        self.check_fits(settings, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n)
        account = self._account(tenant)
        now = self._clock()
        if account.leased is not None:
            _check_leases(tenant, account, settings, tokens, n, budgeted=True)
        else:
            checks.check_concurrency(account, settings, n)
            checks.check_request_rate(account, settings, now)
            checks.check_token_rate(account, settings, tokens, now)
            checks.check_budget(
                account, settings, tokens, account.roll_period(settings.budget_period, self._wall_clock())
            )
        account.enter(now, tokens=tokens, sequences=n)
        return Reservation(account, self._clock, tokens, n)

    def reserve_tokenizing(self, tenant: str, settings: TenantSettings, *, tokens: int) -> Reservation:
        """Reserve for work beside the model, or refuse it: requests, tokens and one place of max_concurrency.

        It needs no KV blocks and counts in no token budget, because nothing is generated.

        Args:
            tenant, settings: as for `reserve`.
            tokens: an estimate; more than `tpm` needs a whole minute's tokens, so that a long text is not refused
                for ever. The caller settles the reservation to the tokens counted.

        Raises:
            RateLimited: rpm or tpm.
            TooManyConcurrent: max_concurrency.
            LeaseShort: as `reserve`.
        """
        if settings.tpm is not None:
            tokens = min(tokens, settings.tpm)
        account = self._account(tenant)
        now = self._clock()
        if account.leased is not None:
            _check_leases(tenant, account, settings, tokens, 1, budgeted=False)
        else:
            checks.check_concurrency(account, settings, 1)
            checks.check_request_rate(account, settings, now)
            checks.check_token_rate(account, settings, tokens, now)
        account.enter(now, tokens=tokens, sequences=1)
        return Reservation(account, self._clock, tokens, 1, _budgeted=False)

    def reserve_background(
        self, tenant: str, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int
    ) -> Reservation:
        """Reserve for the server's own work for a tenant: it counts against the token budget, and no other limit.

        So it takes no place and no rate from the tenant's own requests.

        Raises:
            NeverFits, BudgetExhausted, LeaseShort: as `reserve`.
        """
        only_budget = settings.model_copy(update=dict.fromkeys(("rpm", "tpm", "max_concurrency")))
        tokens = prompt_tokens + max_tokens
        self.check_fits(only_budget, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        account = self._account(tenant)
        if account.leased is not None:
            account.leased.settings = settings
            wanted = {LeaseKind.BUDGET: account.budget_reserved_tokens + tokens}
            if missing := account.leased.missing(wanted):
                raise LeaseShort(tenant, missing)
        else:
            ends_in_s = account.roll_period(settings.budget_period, self._wall_clock())
            checks.check_budget(account, settings, tokens, ends_in_s)
        account.background_tokens += tokens
        return BackgroundReservation(account, self._clock, tokens, 0)

    def check_budget_left(self, tenant: str, settings: TenantSettings, part: float) -> None:
        """Refuse work that requests should not miss the tokens of.

        Raises:
            BudgetExhausted: at most this part of the token budget is left, as far as this server knows.
        """
        if settings.token_budget is not None:
            account = self._account(tenant)
            kept = int(part * settings.token_budget)
            checks.check_budget(
                account,
                settings,
                kept,
                account.roll_period(settings.budget_period, self._wall_clock()),
            )

    def check_fits(
        self, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int, n: int = 1
    ) -> None:
        """Refuse a request that could never be served under these settings on this engine.

        Raises:
            NeverFits: the message shows the arithmetic.
        """
        checks.check_size(settings, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n)
        checks.check_blocks(settings, self.capacity, prompt_tokens=prompt_tokens, max_tokens=max_tokens)

    def fitting_max_tokens(self, settings: TenantSettings, *, prompt_tokens: int, n: int = 1) -> int:
        """The largest max_tokens with which `check_fits` passes; below 1 when the prompt alone is too long.

        It replaces the default of requests without max_tokens, the rest of the model's length, which a tenant
        with a small limit could never get.
        """
        blocks = self.capacity.limit_blocks(Share.of(settings))
        rooms = [blocks * self.capacity.block_size_tokens - prompt_tokens + 1]
        rooms += [(a - prompt_tokens) // n for a in (settings.tpm, settings.token_budget) if a is not None]
        return min(rooms)

    def headers(self, tenant: str, settings: TenantSettings) -> dict[str, str]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that are set."""
        account = self._accounts.get(tenant) or Account()
        now = self._clock()
        headers: dict[str, str] = {}
        for unit, limit, window, reserved in (
            ("requests", settings.rpm, account.requests, 0),
            ("tokens", settings.tpm, account.tokens, account.reserved_tokens),
        ):
            if limit is not None:
                free = limit - window.total(now)
                if account.leased is not None:
                    kind = LeaseKind(unit)
                    free = account.leased.held.get(kind, 0) + account.leased.left.get(kind, limit)
                headers[f"x-ratelimit-limit-{unit}"] = str(limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, free - reserved))
                headers[f"x-ratelimit-reset-{unit}"] = _duration_text(window.reset_s(now))
        return headers

    def restore_budget(self, tenant: str, settings: TenantSettings, *, used_tokens: int) -> None:
        """Set the tokens that the usage ledger counted in this period: after a restart, before the first request."""
        account = self._account(tenant)
        account.restore_period(settings.budget_period, self._wall_clock(), used_tokens)

    def reserved_tokens(self, tenant: str) -> int:
        """The tokens that the tenant's running requests may still use."""
        account = self._accounts.get(tenant)
        return account.reserved_tokens if account else 0

    @property
    def accounts(self) -> dict[str, Account]:
        """The accounts of all tenants that have sent a request, by name."""
        return self._accounts

    def _account(self, tenant: str) -> Account:
        if tenant not in self._accounts:
            parts = LeasedParts(self._clock) if self._shared else None
            self._accounts[tenant] = Account(leased=parts)
        return self._accounts[tenant]


def _check_leases(
    tenant: str, account: Account, settings: TenantSettings, tokens: int, n: int, *, budgeted: bool
) -> None:
    """Raises: LeaseShort."""
    assert account.leased is not None
    account.leased.settings = settings
    wanted = {
        LeaseKind.SEQUENCES: account.sequences + n,
        LeaseKind.REQUESTS: 1,
        LeaseKind.TOKENS: account.reserved_tokens + tokens,
    }
    if budgeted:
        wanted[LeaseKind.BUDGET] = account.budget_reserved_tokens + tokens
    if missing := account.leased.missing(wanted):
        raise LeaseShort(tenant, missing)


def _duration_text(seconds: float) -> str:
    """A duration in OpenAI's format: `0s`, `12s`, `1m1s`."""
    whole = -int(-seconds // 1)
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
