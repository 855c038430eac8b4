"""What a refusal tells its client: the limit, the figures, the next step, and how long to wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from manual_clock import ManualClock

from adapters.tenant_settings import BudgetPeriod, TenantSettings
from server.admission import Admission, Reservation
from server.admission.account import period_end
from server.admission.errors import BudgetExhausted, NeverFits, RateLimited, TooManyConcurrent, TryLater
from server.fairness.shares import Capacity


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def admission(clock: ManualClock) -> Admission:
    return Admission(Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8), clock, clock)


def enter(
    admission: Admission, settings: TenantSettings, tokens: int = 2, *, sequences: int = 1
) -> Reservation:
    """A request that may use `tokens`, all but one per sequence in its prompt."""
    return admission.reserve("acme", settings, prompt_tokens=tokens - sequences, max_tokens=1, n=sequences)


def use(admission: Admission, settings: TenantSettings, tokens: int) -> None:
    """A request that uses `tokens` and ends at once, so the mean duration falls by a fifth."""
    enter(admission, settings, tokens).settle(prompt_tokens=tokens - 1, cached_tokens=0, generated_tokens=1)


def run_for(clock: ManualClock, admission: Admission, duration_s: float) -> None:
    """A request that takes so long and uses nothing."""
    reservation = enter(admission, TenantSettings())
    clock.now_s += duration_s
    reservation.release()


def refused(
    kind: type[TryLater], admission: Admission, settings: TenantSettings, tokens: int = 2, **more: Any
) -> TryLater:
    with pytest.raises(kind) as caught:
        enter(admission, settings, tokens, **more)
    return caught.value


def figures(refusal: TryLater) -> tuple[str, int, int, int, float]:
    return refusal.limit, refusal.asked, refusal.used, refusal.allowed, refusal.retry_after_s


def test_too_many_sequences(clock: ManualClock, admission: Admission) -> None:
    """The next of four sequences ends in a quarter of the mean duration, a moving mean that starts at 2 s."""
    run_for(clock, admission, 102)
    run_for(clock, admission, 42)
    settings = TenantSettings(max_concurrency=4)
    enter(admission, settings, 8, sequences=4)
    refusal = refused(TooManyConcurrent, admission, settings, 4, sequences=2)
    assert figures(refusal) == ("max_concurrency", 2, 4, 4, pytest.approx(26 / 4))
    assert str(refusal) == (
        "4 sequences are running and the request asks for 2 more; max_concurrency is 4. Wait until one has ended."
    )


def test_a_single_sequence_is_waited_for_as_long_as_the_mean(
    clock: ManualClock, admission: Admission
) -> None:
    run_for(clock, admission, 12)
    settings = TenantSettings(max_concurrency=1)
    enter(admission, settings)
    assert refused(TooManyConcurrent, admission, settings).retry_after_s == pytest.approx(4)


def test_too_many_requests(clock: ManualClock, admission: Admission) -> None:
    """The wait is over when the oldest request leaves the minute, and one is enough."""
    settings = TenantSettings(rpm=2)
    for clock.now_s in (1000.0, 1010.0):
        use(admission, settings, 2)
    clock.now_s = 1011.0
    refusal = refused(RateLimited, admission, settings)
    assert figures(refusal) == ("rpm", 1, 2, 2, 1061 - 1011)
    assert str(refusal) == "2 requests came in the last minute; rpm is 2. Wait and send it again."


def test_too_many_tokens(clock: ManualClock, admission: Admission) -> None:
    settings = TenantSettings(tpm=1000)
    for clock.now_s in (1000.0, 1010.0):
        use(admission, settings, 300)
    enter(admission, settings, 200)
    clock.now_s = 1011.0
    refusal = refused(RateLimited, admission, settings, 300)
    assert figures(refusal) == ("tpm", 300, 800, 1000, 1061 - 1011)
    assert str(refusal) == (
        "The request may use 300 tokens; 600 were used in the last minute and 200 are reserved by running "
        "requests; tpm is 1000. Wait and send it again."
    )


@pytest.mark.parametrize(("tokens", "retry_after_s"), [(100, 61), (101, 102 * 0.8)])
def test_a_running_request_is_waited_for_only_if_its_tokens_are_needed(
    clock: ManualClock, admission: Admission, tokens: int, retry_after_s: float
) -> None:
    run_for(clock, admission, 502)
    settings = TenantSettings(tpm=300)
    use(admission, settings, 100)
    enter(admission, settings, 200)
    assert refused(RateLimited, admission, settings, tokens).retry_after_s == pytest.approx(retry_after_s)


NOON = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
DAILY = TenantSettings(token_budget=1000, budget_period=BudgetPeriod.DAY)


@pytest.mark.parametrize(("tokens", "retry_after_s"), [(500, 2 * 0.8 * 0.8), (501, 120)])
def test_a_budget_that_is_used_up(
    clock: ManualClock, admission: Admission, tokens: int, retry_after_s: float
) -> None:
    """The running requests may return what the request needs; otherwise only the next period helps."""
    clock.now_s = NOON
    use(admission, DAILY, 300)
    use(admission, DAILY, 200)
    enter(admission, DAILY, 400)
    refusal = refused(BudgetExhausted, admission, DAILY, tokens)
    assert figures(refusal) == ("token_budget", tokens, 900, 1000, pytest.approx(retry_after_s))
    assert str(refusal) == (
        f"The request may use {tokens} tokens; 500 are used and 400 reserved of the token_budget 1000 per day, "
        "which ends in 43200 s. Wait, or ask the operator for a larger budget."
    )


def test_a_day_that_was_restored_from_the_ledger_ends_at_midnight(
    clock: ManualClock, admission: Admission
) -> None:
    clock.now_s = NOON
    admission.restore_budget("acme", DAILY, used_tokens=900)
    refused(BudgetExhausted, admission, DAILY, 101)
    clock.now_s += 12 * 3600 - 1
    enter(admission, DAILY, 100).release()
    refused(BudgetExhausted, admission, DAILY, 101)
    clock.now_s += 1
    enter(admission, DAILY, 1000)


def test_a_restored_day_that_has_ended_before_the_first_request_is_forgotten(
    clock: ManualClock, admission: Admission
) -> None:
    clock.now_s = NOON
    admission.restore_budget("acme", DAILY, used_tokens=900)
    clock.now_s += 12 * 3600
    enter(admission, DAILY, 1000)


@pytest.mark.parametrize(
    ("period", "end"), [(BudgetPeriod.DAY, (2027, 1, 16)), (BudgetPeriod.MONTH, (2027, 2, 1))]
)
def test_a_period_ends_at_midnight_utc_wherever_the_server_is(
    monkeypatch: pytest.MonkeyPatch, period: BudgetPeriod, end: tuple[int, int, int]
) -> None:
    moment = datetime(2027, 1, 15, 22, 4, 5, 6, tzinfo=UTC).timestamp()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert period_end(period, moment) == datetime(*end, tzinfo=UTC).timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_running_requests_add_up(admission: Admission) -> None:
    settings = TenantSettings(max_concurrency=4)
    enter(admission, settings, 10, sequences=2)
    enter(admission, settings, 20, sequences=2)
    assert admission.reserved_tokens("acme") == 30
    assert refused(TooManyConcurrent, admission, settings).used == 4


def test_a_single_token_is_used_as_soon_as_it_is_counted(clock: ManualClock, admission: Admission) -> None:
    settings = TenantSettings(tpm=100)
    reservation = enter(admission, settings, 10)
    reservation.consume(1)
    assert admission.reserved_tokens("acme") == 9
    assert admission.headers("acme", settings)["x-ratelimit-reset-tokens"] == "1m1s"


def test_more_than_was_reserved_is_counted_too(admission: Admission) -> None:
    settings = TenantSettings(tpm=100)
    enter(admission, settings, 10).settle(prompt_tokens=9, cached_tokens=0, generated_tokens=4)
    assert admission.reserved_tokens("acme") == 0
    assert admission.headers("acme", settings)["x-ratelimit-remaining-tokens"] == "87"


@pytest.mark.parametrize(
    ("settings", "more", "expected"),
    [
        (TenantSettings(), {}, 1600 - 77 + 1),
        (TenantSettings(tpm=333), {}, 333 - 77),
        (TenantSettings(tpm=333), {"n": 3}, (333 - 77) // 3),
        (TenantSettings(tpm=333, token_budget=300), {}, 300 - 77),
        (TenantSettings(kv_limit=0.1, tpm=333), {}, 160 - 77 + 1),
        (TenantSettings(tpm=70), {}, -7),
    ],
)
def test_the_length_that_fits_is_the_smallest_of_all_limits(
    admission: Admission, settings: TenantSettings, more: dict[str, int], expected: int
) -> None:
    fitting = admission.fitting_max_tokens(settings, prompt_tokens=77, **more)
    assert (fitting, type(fitting)) == (expected, int)


@pytest.mark.parametrize(
    ("settings", "sequences", "message", "expected"),
    [
        (
            TenantSettings(tpm=100),
            1,
            "The request may use 100 prompt + 1 max_tokens = 101 tokens, above tpm 100. "
            "Send a shorter prompt or a smaller max_tokens.",
            ("tpm", 101, 100),
        ),
        (
            TenantSettings(token_budget=100),
            2,
            "The request may use 99 prompt + 2 x 1 max_tokens = 101 tokens, above token_budget 100. "
            "Send a shorter prompt or a smaller max_tokens.",
            ("token_budget", 101, 100),
        ),
        (
            TenantSettings(max_concurrency=2),
            3,
            "n=3 sequences are above max_concurrency 2. Send a smaller n.",
            ("max_concurrency", 3, 2),
        ),
        (
            TenantSettings(kv_limit=0.06),
            1,
            "One sequence may need 100 tokens / 16 per block = 7 KV blocks; kv_limit 0.06 x 100 blocks allows 6. "
            "Send a shorter prompt or a smaller max_tokens.",
            ("kv_limit", 7, 6),
        ),
    ],
)
def test_what_never_fits(
    admission: Admission,
    settings: TenantSettings,
    sequences: int,
    message: str,
    expected: tuple[str, int, int],
) -> None:
    with pytest.raises(NeverFits) as caught:
        enter(admission, settings, 101, sequences=sequences)
    assert (caught.value.limit, caught.value.asked, caught.value.allowed) == expected
    assert str(caught.value) == message
    assert admission.reserved_tokens("acme") == 0


def test_a_request_has_one_sequence_unless_it_says_more(admission: Admission) -> None:
    single = TenantSettings(max_concurrency=1, tpm=10)
    admission.check_fits(single, prompt_tokens=4, max_tokens=6)
    with pytest.raises(NeverFits):
        admission.check_fits(single, prompt_tokens=4, max_tokens=6, n=2)
