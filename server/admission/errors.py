"""The reasons for a refusal. All are `LoragateError`s and know no HTTP.

AdmissionError
├── TryLater                 the same request can succeed later; carries `retry_after_s`
│   ├── RateLimited          rpm or tpm is used up for now
│   ├── TooManyConcurrent    max_concurrency sequences are running
│   └── BudgetExhausted      the budget of the day or month, in tokens or money, is used up
└── NeverFits                larger than a limit of its tenant, or than the engine
"""

from __future__ import annotations

from server.errors import LoragateError

#: The bounds of every Retry-After; the OpenAI SDK stops retrying above the upper one.
MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 120.0


class AdmissionError(LoragateError):
    """The request is refused.

    Attributes:
        limit: the name of the limit in `TenantSettings` or `KeyLimits` (`rpm`, `tpm`, `kv_limit`, …).
        asked: the amount that the request needs; money in 1e-9 of the currency.
        allowed: the value of the limit.
    """

    def __init__(self, message: str, *, limit: str, asked: int, allowed: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.asked = asked
        self.allowed = allowed


class TryLater(AdmissionError):
    """The tenant has reached a limit for now.

    Attributes:
        retry_after_s: finite, between 1 and 120.
        used: the amount used or reserved when the request came.
    """

    def __init__(
        self, message: str, *, limit: str, asked: int, used: int, allowed: int, retry_after_s: float
    ) -> None:
        super().__init__(message, limit=limit, asked=asked, allowed=allowed)
        self.used = used
        self.retry_after_s = min(max(retry_after_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)


class RateLimited(TryLater):
    """The tenant sends requests or tokens faster than its rate."""


class TooManyConcurrent(TryLater):
    """The tenant already runs as many sequences as it may."""


class BudgetExhausted(TryLater):
    """The tenant, or the key, has used up its budget of tokens or money for this period."""


class NeverFits(AdmissionError):
    """The request is larger than a limit that waiting does not lift."""
