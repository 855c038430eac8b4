from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from manual_clock import ManualClock

from adapters.tenant_settings import BudgetPeriod, TenantSettings
from server.admission import Admission, Reservation
from server.admission.account import period_end
from server.admission.errors import BudgetExhausted, NeverFits, RateLimited, TooManyConcurrent
from server.fairness.shares import Capacity

CAPACITY = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8)


def make(clock: ManualClock | None = None) -> tuple[Admission, ManualClock]:
    clock = clock or ManualClock()
    return Admission(CAPACITY, clock, clock), clock


def used(reservation: Reservation, prompt: int, generated: int) -> None:
    reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=generated)


def test_without_limits_everything_enters() -> None:
    admission, _ = make()
    for _ in range(1000):
        admission.reserve("acme", TenantSettings(), prompt_tokens=10, max_tokens=100)
    assert admission.headers("acme", TenantSettings()) == {}


def test_tokens_are_reserved_at_entry_and_the_rest_refunded_at_exit() -> None:
    admission, clock = make()
    policy = TenantSettings(tpm=1000)
    first = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=800)
    with pytest.raises(RateLimited) as refused:
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100)
    assert (refused.value.limit, refused.value.asked) == ("tpm", 200)
    assert (refused.value.used, refused.value.allowed) == (900, 1000)
    used(first, 100, 50)
    assert admission.reserved_tokens("acme") == 0
    second = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=700)
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "50"
    second.release()
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "850"
    clock.now_s += 61
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "1000"


def test_tenants_do_not_share_a_rate() -> None:
    admission, _ = make()
    admission.reserve("acme", TenantSettings(tpm=100), prompt_tokens=50, max_tokens=50)
    admission.reserve("globex", TenantSettings(tpm=100), prompt_tokens=50, max_tokens=50)


def test_settling_and_releasing_twice_counts_once() -> None:
    admission, _ = make()
    policy = TenantSettings(tpm=1000, max_concurrency=1)
    reservation = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100)
    for _ in range(3):
        used(reservation, 100, 100)
        reservation.release()
        reservation.consume(5)
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "800"
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_what_is_consumed_in_a_stream_leaves_the_window_a_minute_after_it_was_used() -> None:
    admission, clock = make()
    policy = TenantSettings(tpm=1000)
    stream = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=900)
    stream.consume(100 + 400)
    clock.now_s += 61
    stream.consume(100)
    remaining = admission.headers("acme", policy)["x-ratelimit-remaining-tokens"]
    assert remaining == str(1000 - 100 - 400)  # used in the last minute, still reserved
    used(stream, 100, 500)
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "900"


def test_requests_per_minute_are_not_refunded() -> None:
    admission, clock = make()
    policy = TenantSettings(rpm=2)
    for _ in range(2):
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1).release()
    with pytest.raises(RateLimited) as refused:
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)
    assert refused.value.limit == "rpm"
    clock.now_s += refused.value.retry_after_s
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_a_refused_request_changes_nothing() -> None:
    admission, _ = make()
    policy = TenantSettings(rpm=5, tpm=100, max_concurrency=1)
    admission.reserve("acme", policy, prompt_tokens=10, max_tokens=10)
    before = admission.headers("acme", policy)
    for _ in range(10):
        with pytest.raises(TooManyConcurrent):
            admission.reserve("acme", policy, prompt_tokens=10, max_tokens=10)
    assert admission.headers("acme", policy) == before
    assert admission.reserved_tokens("acme") == 20


def test_concurrency_counts_sequences() -> None:
    admission, _ = make()
    policy = TenantSettings(max_concurrency=4)
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1, n=3)
    with pytest.raises(TooManyConcurrent) as refused:
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1, n=2)
    assert 1 <= refused.value.retry_after_s <= 120
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_a_change_of_policy_holds_from_the_next_call() -> None:
    admission, _ = make()
    admission.reserve("acme", TenantSettings(tpm=1000), prompt_tokens=100, max_tokens=100)
    with pytest.raises(RateLimited):
        admission.reserve("acme", TenantSettings(tpm=300), prompt_tokens=100, max_tokens=100)
    admission.reserve("acme", TenantSettings(tpm=400), prompt_tokens=100, max_tokens=100)
    assert admission.headers("acme", TenantSettings(tpm=100))["x-ratelimit-remaining-tokens"] == "0"


@pytest.mark.parametrize(
    ("policy", "tokens", "n", "limit", "arithmetic"),
    [
        (TenantSettings(tpm=100), (50, 51), 1, "tpm", "50 prompt + 51 max_tokens = 101"),
        (TenantSettings(tpm=100), (50, 20), 3, "tpm", "50 prompt + 3 x 20 max_tokens = 110"),
        (
            TenantSettings(token_budget=100),
            (1, 100),
            1,
            "token_budget",
            "= 101 tokens, above token_budget 100",
        ),
        (
            TenantSettings(max_concurrency=2),
            (1, 1),
            3,
            "max_concurrency",
            "n=3 sequences are above max_concurrency 2",
        ),
        (
            TenantSettings(kv_limit=0.5),
            (800, 2),
            1,
            "kv_limit",
            "801 tokens / 16 per block = 51 KV blocks; kv_limit 0.5",
        ),
        (TenantSettings(), (1600, 2), 1, "kv_limit", "kv_limit 1 x 100 blocks allows 100"),
    ],
)
def test_what_could_never_fit_is_refused_with_the_arithmetic(
    policy: TenantSettings, tokens: tuple[int, int], n: int, limit: str, arithmetic: str
) -> None:
    admission, _ = make()
    with pytest.raises(NeverFits, match=arithmetic.replace("+", r"\+")) as refused:
        admission.reserve("acme", policy, prompt_tokens=tokens[0], max_tokens=tokens[1], n=n)
    assert refused.value.limit == limit
    assert refused.value.asked > refused.value.allowed


def test_what_just_fits_enters() -> None:
    admission, _ = make()
    admission.reserve("acme", TenantSettings(kv_limit=0.5), prompt_tokens=800, max_tokens=1)
    admission.reserve("acme", TenantSettings(), prompt_tokens=1500, max_tokens=101)


@pytest.mark.parametrize(
    "policy",
    [TenantSettings(kv_limit=0.3), TenantSettings(tpm=333), TenantSettings(kv_limit=0.9, tpm=10_000)],
)
@pytest.mark.parametrize("n", [1, 3])
def test_fitting_max_tokens_is_the_largest_that_fits(policy: TenantSettings, n: int) -> None:
    admission, _ = make()
    largest = admission.fitting_max_tokens(policy, prompt_tokens=77, n=n)
    assert largest >= 1
    admission.check_fits(policy, prompt_tokens=77, max_tokens=largest, n=n)
    with pytest.raises(NeverFits):
        admission.check_fits(policy, prompt_tokens=77, max_tokens=largest + 1, n=n)


def test_a_budget_holds_for_its_period_and_starts_anew() -> None:
    start = datetime(2027, 1, 31, 23, 0, tzinfo=UTC).timestamp()
    admission, clock = make(ManualClock(start))
    policy = TenantSettings(token_budget=1000, budget_period=BudgetPeriod.DAY)
    used(admission.reserve("acme", policy, prompt_tokens=100, max_tokens=600), 100, 600)
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=300)
    assert refused.value.retry_after_s == 120  # the longest that clients follow; the message has the rest
    assert "700 are used" in str(refused.value)
    assert "ends in 3600 s" in str(refused.value)
    clock.now_s += 3600
    admission.reserve("acme", policy, prompt_tokens=100, max_tokens=900)


def test_a_budget_that_is_only_reserved_is_worth_an_early_retry() -> None:
    admission, _ = make()
    policy = TenantSettings(token_budget=1000)
    admission.reserve("acme", policy, prompt_tokens=100, max_tokens=800)
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=300)
    assert refused.value.retry_after_s < 10


def test_a_budget_is_restored_from_the_ledger() -> None:
    admission, _ = make()
    policy = TenantSettings(token_budget=1000)
    admission.restore_budget("acme", policy, used_tokens=900)
    with pytest.raises(BudgetExhausted):
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100)


def test_changing_the_period_keeps_what_was_used() -> None:
    admission, _ = make()
    day = TenantSettings(token_budget=1000, budget_period=BudgetPeriod.DAY)
    used(admission.reserve("acme", day, prompt_tokens=100, max_tokens=800), 100, 800)
    month = day.changed({"budget_period": BudgetPeriod.MONTH})
    with pytest.raises(BudgetExhausted):
        admission.reserve("acme", month, prompt_tokens=100, max_tokens=100)


def test_period_ends_are_calendar_days_and_months_in_utc() -> None:
    moment = datetime(2026, 12, 31, 13, 5, tzinfo=UTC).timestamp()
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert period_end(BudgetPeriod.DAY, moment) == new_year
    assert period_end(BudgetPeriod.MONTH, moment) == new_year
    february = datetime(2028, 2, 1, tzinfo=UTC).timestamp()
    assert period_end(BudgetPeriod.MONTH, february) == datetime(2028, 3, 1, tzinfo=UTC).timestamp()


def test_headers_tell_limit_remaining_and_reset() -> None:
    admission, clock = make(ManualClock(1000.5))
    policy = TenantSettings(rpm=10, tpm=1000)
    assert admission.headers("acme", policy)["x-ratelimit-reset-requests"] == "0s"
    used(admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100), 100, 20)
    clock.now_s += 10
    assert admission.headers("acme", policy) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "51s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "880",
        "x-ratelimit-reset-tokens": "51s",
    }


def test_reserving_and_settling_takes_far_less_than_a_millisecond() -> None:
    admission = Admission(CAPACITY)
    policy = TenantSettings(rpm=10**6, tpm=10**9, token_budget=2 * 10**9, max_concurrency=1000)
    began_s = time.thread_time()  # processor time: others may use the machine
    for i in range(2000):
        reservation = admission.reserve(f"t{i % 50}", policy, prompt_tokens=10, max_tokens=100)
        reservation.settle(prompt_tokens=10, cached_tokens=0, generated_tokens=20)
    assert (time.thread_time() - began_s) / 2000 < 0.001


def test_background_work_counts_against_the_budget_and_against_no_rate() -> None:
    admission, _ = make()
    policy = TenantSettings(tpm=1000, rpm=1, max_concurrency=1, token_budget=5000)
    running = [
        admission.reserve_background("acme", policy, prompt_tokens=500, max_tokens=500) for _ in range(4)
    ]
    own = admission.reserve("acme", policy, prompt_tokens=500, max_tokens=500)
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve_background("acme", policy, prompt_tokens=1, max_tokens=0)
    assert (refused.value.used, refused.value.allowed) == (5000, 5000)
    own.release()
    for reservation in running:
        used(reservation, 500, 100)
        reservation.release()
    account = admission.accounts["acme"]
    assert (account.background_tokens, account.period_used_tokens, account.sequences) == (0, 2400, 0)
    assert account.tokens.total(1000.0) == 0, "nothing of it is in the rate's window"


def test_background_work_that_could_never_fit_is_refused() -> None:
    admission, _ = make()
    with pytest.raises(NeverFits):
        admission.reserve_background("acme", TenantSettings(), prompt_tokens=1601, max_tokens=1)
