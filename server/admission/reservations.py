"""May this request enter? Decided at once, in the API process, before anything reaches the engine.

Tokens are *reserved* at entry (prompt + n x max_tokens) and *settled* at exit to what was used, so that the
limits hold for any interleaving of requests and streams: at each moment, what is reserved plus what was used
in the last 60 s is at most `tpm`. Nothing here awaits; one event loop calls it; each call is O(1).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from adapters.tenant_settings import TenantSettings
from server.admission import checks
from server.admission.account import Account
from server.fairness.policy import Capacity, Share


class Reservation:
    """What one request holds of its tenant's limits. Whoever reserved must `settle` or `release` it."""

    __slots__ = (
        "_account",
        "_clock",
        "_entered_at",
        "_open",
        "_reserved_tokens",
        "_sequences",
        "_used_tokens",
    )

    def __init__(self, account: Account, clock: Callable[[], float], *, tokens: int, sequences: int) -> None:
        self._account = account
        self._clock = clock
        self._entered_at = clock()
        self._reserved_tokens = tokens
        self._sequences = sequences
        self._used_tokens = 0
        self._open = True

    def consume(self, tokens: int) -> None:
        """Optional: say as it happens that `tokens` more were used.

        Used tokens leave the rate's window 60 s after they were used; without this they count from the exit.
        """
        if self._open and tokens > 0:
            reserved = min(tokens, self._reserved_tokens)
            self._account.use(self._clock(), used=tokens, reserved=reserved)
            self._reserved_tokens -= reserved
            self._used_tokens += tokens

    def settle(self, *, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> None:
        """Count what the whole request used and give the rest back. A second call does nothing.

        `cached_tokens` is part of `prompt_tokens` and counts like the rest of it.
        """
        self.consume(prompt_tokens + generated_tokens - self._used_tokens)
        self.release()

    def release(self) -> None:
        """Give back all that was not used, when nothing more is known of the request. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._account.leave(
            reserved=self._reserved_tokens,
            sequences=self._sequences,
            duration_s=self._clock() - self._entered_at,
        )
        self._reserved_tokens = 0


class Admission:
    """Reserves against the limits of each tenant.

    Args:
        capacity: what the engine has; assign a new one when the engine comes back different.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, for budget periods.
    """

    def __init__(
        self,
        capacity: Capacity,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.capacity = capacity
        self._clock = clock
        self._wall_clock = wall_clock
        self._accounts: dict[str, Account] = {}

    def reserve(
        self, tenant: str, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int, n: int = 1
    ) -> Reservation:
        """Take what the request may use at most, or say why not; a refusal changes nothing.

        Args:
            tenant: the tenant's name; "" is the operator.
            settings: the tenant's limits as they are now; a change holds from this call on.
            prompt_tokens: length of the prompt.
            max_tokens: the most tokens one sequence may generate.
            n: how many sequences are generated; the prompt counts once.

        Raises:
            NeverFits: larger than a limit that waiting does not lift.
            RateLimited: rpm or tpm.
            TooManyConcurrent: max_concurrency.
            BudgetExhausted: token_budget.
        """
        tokens = prompt_tokens + n * max_tokens
        self.check_fits(settings, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n)
        account = self._accounts.setdefault(tenant, Account())
        now = self._clock()
        checks.check_concurrency(account, settings, n)
        checks.check_request_rate(account, settings, now)
        checks.check_token_rate(account, settings, tokens, now)
        checks.check_budget(
            account, settings, tokens, account.turn_period(settings.budget_period, self._wall_clock())
        )
        account.enter(now, tokens=tokens, sequences=n)
        return Reservation(account, self._clock, tokens=tokens, sequences=n)

    def check_fits(
        self, settings: TenantSettings, *, prompt_tokens: int, max_tokens: int, n: int = 1
    ) -> None:
        """Refuse what could never be served under these settings on this engine.

        Raises:
            NeverFits: the message shows the arithmetic.
        """
        checks.check_size(settings, prompt_tokens=prompt_tokens, max_tokens=max_tokens, n=n)
        checks.check_blocks(settings, self.capacity, prompt_tokens=prompt_tokens, max_tokens=max_tokens)

    def fitting_max_tokens(self, settings: TenantSettings, *, prompt_tokens: int, n: int = 1) -> int:
        """The largest max_tokens with which `check_fits` passes; below 1 when the prompt alone is too long.

        For requests that name no max_tokens: their default is what is left of the model's length, which a
        tenant with a small limit could never be given.
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
                headers[f"x-ratelimit-limit-{unit}"] = str(limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, limit - window.total(now) - reserved))
                headers[f"x-ratelimit-reset-{unit}"] = _duration_text(window.reset_s(now))
        return headers

    def restore_budget(self, tenant: str, settings: TenantSettings, *, used_tokens: int) -> None:
        """Take over what the ledger counted in this period: after a restart, before the first request."""
        account = self._accounts.setdefault(tenant, Account())
        account.restore_period(settings.budget_period, self._wall_clock(), used_tokens)

    def reserved_tokens(self, tenant: str) -> int:
        """What the tenant's requests under way may still use."""
        account = self._accounts.get(tenant)
        return account.reserved_tokens if account else 0


def _duration_text(seconds: float) -> str:
    """As OpenAI writes it: `0s`, `12s`, `1m1s`."""
    whole = -int(-seconds // 1)
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
