"""One request's part of the limits of its tenant and its key, from its entry to its exit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from adapters.billing.prices import FREE, Price
from server.admission.account import Account


@dataclass(slots=True, eq=False)
class Reservation:
    """One request's part of the limits. The caller of `reserve` must `settle` or `release` it."""

    _accounts: tuple[Account, ...]
    """The tenant's, and the key's if it has one."""
    _clock: Callable[[], float]
    _reserved_tokens: int
    _sequences: int
    _price: Price = FREE
    _reserved_nanos: int = 0
    _budgeted: bool = True
    _used_tokens: int = 0
    _open: bool = True
    _entered_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._entered_at = self._clock()

    def consume(self, tokens: int) -> None:
        """Optional: count `tokens` more as used, while the request runs.

        Used tokens leave the rate's window 60 s after they were counted; without this call that is at the exit.
        """
        if self._open and tokens > 0:
            reserved = min(tokens, self._reserved_tokens)
            now = self._clock()
            for account in self._accounts:
                account.use(now, used=tokens, reserved=reserved, budgeted=self._budgeted)
            self._reserved_tokens -= reserved
            self._used_tokens += tokens

    def settle(self, *, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> None:
        """Count the tokens of the whole request and their cost, and return the rest. A second call does nothing.

        `cached_tokens` is part of `prompt_tokens`; it counts like the rest of it, and has a price of its own.
        """
        self.consume(prompt_tokens + generated_tokens - self._used_tokens)
        if self._open and self._budgeted:
            nanos = self._price.cost_nanos(
                prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, generated_tokens=generated_tokens
            )
            for account in self._accounts:
                account.spend(nanos)
        self.release()

    def release(self) -> None:
        """Return what was not used, when the request's usage is unknown. Idempotent."""
        if not self._open:
            return
        self._open = False
        for account in self._accounts:
            account.leave(
                reserved=self._reserved_tokens,
                nanos=self._reserved_nanos,
                sequences=self._sequences,
                duration_s=self._clock() - self._entered_at,
            )
        self._reserved_tokens = self._reserved_nanos = 0


@dataclass(slots=True, eq=False)
class BackgroundReservation(Reservation):
    """Part of a tenant's budgets, in tokens and in money, for the server's own work."""

    def consume(self, tokens: int) -> None:
        """Count `tokens` more as used."""
        if self._open and tokens > 0:
            reserved = min(tokens, self._reserved_tokens)
            for account in self._accounts:
                account.use_background(used=tokens, reserved=reserved)
            self._reserved_tokens -= reserved
            self._used_tokens += tokens

    def release(self) -> None:
        """Return the tokens that were not used, and the money that was reserved. Idempotent."""
        if self._open:
            self._open = False
            for account in self._accounts:
                account.use_background(used=0, reserved=self._reserved_tokens, nanos=self._reserved_nanos)
            self._reserved_tokens = self._reserved_nanos = 0
