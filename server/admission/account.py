"""The tokens, sequences and money that one tenant, or one key, has used and reserved."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from adapters.billing.sliding_window import SlidingWindow
from adapters.registry.replicas.leases import LeaseKind
from adapters.tenant_settings import BudgetPeriod
from server.admission.leased_parts import LeasedParts

#: Weight of the newest request in the moving mean of durations, and the mean before the first request.
_MEAN_STEP = 0.2
_FIRST_GUESS_S = 2.0


@dataclass(slots=True, eq=False)
class Account:
    """The counts of one tenant or key. A token is either *reserved* (may still be used) or *used*, never both.

    So is money, in 1e-9 of the currency.
    """

    requests: SlidingWindow = field(default_factory=SlidingWindow)
    tokens: SlidingWindow = field(default_factory=SlidingWindow)
    reserved_tokens: int = 0
    background_tokens: int = 0
    """Reserved by the server's own work for the tenant, which counts against its budgets only."""
    sequences: int = 0
    period_used_tokens: int = 0
    reserved_nanos: int = 0
    period_used_nanos: int = 0
    mean_duration_s: float = _FIRST_GUESS_S
    leased: LeasedParts | None = None
    """What this server holds of limits that several servers share; None: it has the limits to itself."""
    _period: BudgetPeriod | None = None
    _period_ends_at: float = 0.0

    @property
    def budget_reserved_tokens(self) -> int:
        """The tokens of the budget that running requests may still use."""
        return self.reserved_tokens + self.background_tokens

    def use_background(self, *, used: int, reserved: int, nanos: int = 0) -> None:
        """Count what the server's own work used or returned: `used` of `reserved` tokens, and reserved money."""
        self.background_tokens -= reserved
        self.reserved_nanos -= nanos
        self.period_used_tokens += used
        if self.leased is not None:
            self.leased.use(LeaseKind.BUDGET, used)

    def enter(self, now: float, *, tokens: int, nanos: int, sequences: int) -> None:
        """Count a request that was admitted."""
        self.requests.add(now, 1)
        self.reserved_tokens += tokens
        self.reserved_nanos += nanos
        self.sequences += sequences
        if self.leased is not None:
            self.leased.use(LeaseKind.REQUESTS, 1)

    def use(self, now: float, *, used: int, reserved: int, budgeted: bool = True) -> None:
        """Count `used` tokens, of which `reserved` were reserved before; `budgeted`: in the budget's period, too."""
        self.tokens.add(now, used)
        if budgeted:
            self.period_used_tokens += used
        self.reserved_tokens -= reserved
        if self.leased is not None:
            self.leased.use(LeaseKind.TOKENS, used)
            if budgeted:
                self.leased.use(LeaseKind.BUDGET, used)

    def spend(self, used_nanos: int) -> None:
        """Count what a request has cost, in the budget's period."""
        self.period_used_nanos += used_nanos
        if self.leased is not None:
            self.leased.use(LeaseKind.MONEY, used_nanos)

    def leave(self, *, reserved: int, nanos: int, sequences: int, duration_s: float) -> None:
        """Count the end of a request; return the tokens that it did not use, and the money that it reserved."""
        self.reserved_tokens -= reserved
        self.reserved_nanos -= nanos
        self.sequences -= sequences
        self.mean_duration_s += _MEAN_STEP * (duration_s - self.mean_duration_s)

    def roll_period(self, period: BudgetPeriod, wall_now: float) -> float:
        """Start a new budget period if the old one has ended; return the seconds to its end."""
        if self._period is not None and wall_now >= self._period_ends_at:
            self.period_used_tokens = self.period_used_nanos = 0
            self._period = None
        if period is not self._period:
            self._period = period
            self._period_ends_at = period_end(period, wall_now)
        return self._period_ends_at - wall_now

    def restore_period(
        self, period: BudgetPeriod, wall_now: float, used_tokens: int, used_nanos: int
    ) -> None:
        """Set what was used in the present period, from the usage ledger, after a restart."""
        self._period = period
        self._period_ends_at = period_end(period, wall_now)
        self.period_used_tokens = used_tokens
        self.period_used_nanos = used_nanos


def period_end(period: BudgetPeriod, wall_now: float) -> float:
    """The end of the calendar day or month (UTC) that contains `wall_now`, in seconds since 1970."""
    today = datetime.fromtimestamp(wall_now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period is BudgetPeriod.DAY:
        return (today + timedelta(days=1)).timestamp()
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
