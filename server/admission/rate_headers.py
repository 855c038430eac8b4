"""The headers that tell a client what is left of its rates."""

from __future__ import annotations

from collections.abc import Iterable

from adapters.registry.replicas.leases import LeaseKind
from adapters.tenant_settings import UsageLimits
from server.admission.account import Account


def rate_headers(claims: Iterable[tuple[Account, UsageLimits]], now: float) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that are set.

    Of a tenant's limit and its key's, the one of which less is left.
    """
    claims = list(claims)
    headers: dict[str, str] = {}
    for kind in (LeaseKind.REQUESTS, LeaseKind.TOKENS):
        left = [
            (_free(account, kind, limit, now), limit, account)
            for account, limits in claims
            if (limit := limits.rpm if kind is LeaseKind.REQUESTS else limits.tpm) is not None
        ]
        if left:
            free, limit, account = min(left, key=lambda row: row[0])
            window = account.requests if kind is LeaseKind.REQUESTS else account.tokens
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, free))
            headers[f"x-ratelimit-reset-{kind}"] = _duration_text(window.reset_s(now))
    return headers


def _free(account: Account, kind: LeaseKind, limit: int, now: float) -> int:
    is_requests = kind is LeaseKind.REQUESTS
    free = limit - (account.requests if is_requests else account.tokens).total(now)
    if account.leased is not None:
        free = account.leased.held.get(kind, 0) + account.leased.left.get(kind, limit)
    return free - (0 if is_requests else account.reserved_tokens)


def _duration_text(seconds: float) -> str:
    """A duration in OpenAI's format: `0s`, `12s`, `1m1s`."""
    whole = -int(-seconds // 1)
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
