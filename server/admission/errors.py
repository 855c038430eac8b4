"""Why a request may not enter. All are `LoragateError`s and know no HTTP.

AdmissionError
├── TryLater                 the same request can succeed later; carries `retry_after_s`
│   ├── RateLimited          rpm or tpm is used up for now
│   ├── TooManyConcurrent    max_concurrency sequences are under way
│   └── BudgetExhausted      the token budget of the day or month is used up
└── NeverFits                larger than a limit of its tenant, or than the engine
"""

from __future__ import annotations

from server.errors import LoragateError

#: Clients take a Retry-After seriously between these two; the OpenAI SDK stops retrying above.
MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 120.0


class AdmissionError(LoragateError):
    """The request may not enter.

    Attributes:
        limit: the limit's name as the tenant's policy has it (`rpm`, `tpm`, `kv_limit`, …).
        asked: what the request needs of it.
        allowed: what the limit is.
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
        used: what was used or reserved of the limit when the request came.
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
    """The tenant has as many sequences under way as it may."""


class BudgetExhausted(TryLater):
    """The tenant has used up its token budget for this period."""


class NeverFits(AdmissionError):
    """The request is larger than a limit that waiting does not lift."""
