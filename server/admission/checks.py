"""One function per limit: it returns, or raises a refusal that shows the arithmetic. None changes a count.

Each works for a tenant and for a key; `limits` says which one it is.
"""

from __future__ import annotations

from adapters.billing.money import nanos_text, to_nanos
from adapters.tenant_settings import KeyLimits, TenantSettings, UsageLimits
from server.admission.account import Account
from server.admission.errors import BudgetExhausted, NeverFits, RateLimited, TooManyConcurrent
from server.fairness.shares import Capacity, Share

_NEXT_STEP = "Send a shorter prompt or a smaller max_tokens."


def check_size(limits: UsageLimits, *, prompt_tokens: int, max_tokens: int, n: int, nanos: int = 0) -> None:
    """Refuse a request that would not fit even into an empty window or a new period.

    Raises:
        NeverFits: it is above tpm, token_budget, money_budget or max_concurrency by itself.
    """
    tokens = prompt_tokens + n * max_tokens
    factor = f"{n} x " if n > 1 else ""
    for limit, allowed in (("tpm", limits.tpm), ("token_budget", limits.token_budget)):
        if allowed is not None and tokens > allowed:
            raise NeverFits(
                f"The request may use {prompt_tokens} prompt + {factor}{max_tokens} max_tokens = {tokens} "
                f"tokens, above {limit}{_owner(limits)} {allowed}. {_NEXT_STEP}",
                limit=limit,
                asked=tokens,
                allowed=allowed,
            )
    if limits.money_budget is not None and nanos > (budget := to_nanos(limits.money_budget)):
        raise NeverFits(
            f"The request may use {prompt_tokens} prompt + {factor}{max_tokens} max_tokens and cost "
            f"{nanos_text(nanos)}, above money_budget{_owner(limits)} {nanos_text(budget)}. {_NEXT_STEP}",
            limit="money_budget",
            asked=nanos,
            allowed=budget,
        )
    allowed = limits.max_concurrency
    if allowed is not None and n > allowed:
        message = f"n={n} sequences are above max_concurrency{_owner(limits)} {allowed}. Send a smaller n."
        raise NeverFits(message, limit="max_concurrency", asked=n, allowed=allowed)


def check_blocks(
    settings: TenantSettings, capacity: Capacity, *, prompt_tokens: int, max_tokens: int
) -> None:
    """Refuse a sequence that would not fit into the KV cache even as the only one of its tenant.

    Raises:
        NeverFits: it is above kv_limit, or above the whole cache.
    """
    # The last generated token is never an input, so it needs no place in the cache.
    tokens = prompt_tokens + max(max_tokens - 1, 0)
    blocks, allowed = capacity.blocks_for(tokens), capacity.limit_blocks(Share.of(settings))
    if blocks > allowed:
        raise NeverFits(
            f"One sequence may need {tokens} tokens / {capacity.block_size_tokens} per block = {blocks} KV "
            f"blocks; kv_limit {settings.kv_limit:g} x {capacity.kv_blocks} blocks allows {allowed}. "
            f"{_NEXT_STEP}",
            limit="kv_limit",
            asked=blocks,
            allowed=allowed,
        )


def check_concurrency(account: Account, limits: UsageLimits, n: int) -> None:
    """Raises: TooManyConcurrent."""
    allowed = limits.max_concurrency
    if allowed is None or account.sequences + n <= allowed:
        return
    raise TooManyConcurrent(
        f"{account.sequences} sequences are running and the request asks for {n} more; "
        f"max_concurrency{_owner(limits)} is {allowed}. Wait until one has ended.",
        limit="max_concurrency",
        asked=n,
        used=account.sequences,
        allowed=allowed,
        retry_after_s=account.mean_duration_s / max(account.sequences, 1),
    )


def check_request_rate(account: Account, limits: UsageLimits, now: float) -> None:
    """Raises: RateLimited."""
    used = account.requests.total(now)
    if limits.rpm is None or used + 1 <= limits.rpm:
        return
    raise RateLimited(
        f"{used} requests came in the last minute; rpm{_owner(limits)} is {limits.rpm}. Wait and send it again.",
        limit="rpm",
        asked=1,
        used=used,
        allowed=limits.rpm,
        retry_after_s=account.requests.wait_s(now, used + 1 - limits.rpm),
    )


def check_token_rate(account: Account, limits: UsageLimits, tokens: int, now: float) -> None:
    """Raises: RateLimited."""
    used, reserved = account.tokens.total(now), account.reserved_tokens
    if limits.tpm is None or used + reserved + tokens <= limits.tpm:
        return
    missing = used + reserved + tokens - limits.tpm
    retry_after_s = account.tokens.wait_s(now, missing)
    if missing > used:  # reserved tokens are returned when a running request ends
        retry_after_s = max(retry_after_s, account.mean_duration_s)
    raise RateLimited(
        f"The request may use {tokens} tokens; {used} were used in the last minute and {reserved} are "
        f"reserved by running requests; tpm{_owner(limits)} is {limits.tpm}. Wait and send it again.",
        limit="tpm",
        asked=tokens,
        used=used + reserved,
        allowed=limits.tpm,
        retry_after_s=retry_after_s,
    )


def check_budget(account: Account, limits: UsageLimits, tokens: int, period_ends_in_s: float) -> None:
    """Raises: BudgetExhausted."""
    budget, used = limits.token_budget, account.period_used_tokens
    reserved = account.budget_reserved_tokens
    if budget is None or used + reserved + tokens <= budget:
        return
    waits_for_refund = used + tokens <= budget
    raise BudgetExhausted(
        f"The request may use {tokens} tokens; {used} are used and {reserved} reserved of the token_budget"
        f"{_owner(limits)} {budget} per {limits.budget_period}, which ends in {int(period_ends_in_s)} s. "
        f"Wait, or ask {_who_decides(limits)} for a larger budget.",
        limit="token_budget",
        asked=tokens,
        used=used + reserved,
        allowed=budget,
        retry_after_s=account.mean_duration_s if waits_for_refund else period_ends_in_s,
    )


def check_money(account: Account, limits: UsageLimits, nanos: int, period_ends_in_s: float) -> None:
    """Raises: BudgetExhausted."""
    if limits.money_budget is None:
        return
    budget, used, reserved = to_nanos(limits.money_budget), account.period_used_nanos, account.reserved_nanos
    if used + reserved + nanos <= budget:
        return
    waits_for_refund = used + nanos <= budget
    raise BudgetExhausted(
        f"The request may cost {nanos_text(nanos)}; {nanos_text(used)} is used and {nanos_text(reserved)} reserved "
        f"of the money_budget{_owner(limits)} {nanos_text(budget)} per {limits.budget_period}, which ends in "
        f"{int(period_ends_in_s)} s. Wait, or ask {_who_decides(limits)} for a larger budget.",
        limit="money_budget",
        asked=nanos,
        used=used + reserved,
        allowed=budget,
        retry_after_s=account.mean_duration_s if waits_for_refund else period_ends_in_s,
    )


def _owner(limits: UsageLimits) -> str:
    """What follows the name of a limit."""
    return " of this key" if isinstance(limits, KeyLimits) else ""


def _who_decides(limits: UsageLimits) -> str:
    return "the key's admin" if isinstance(limits, KeyLimits) else "the operator"
