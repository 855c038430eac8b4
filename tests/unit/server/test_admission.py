from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from adapters.records import BudgetPeriod
from server.admission import (
    Admission,
    BudgetExhausted,
    Capacity,
    NeverFits,
    Policy,
    RateLimited,
    Reservation,
    TooManyConcurrent,
    TryLater,
)
from server.admission.account import period_end

CAPACITY = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None) -> tuple[Admission, Clock]:
    clock = clock or Clock()
    return Admission(CAPACITY, clock, clock), clock


def used(reservation: Reservation, prompt: int, generated: int) -> None:
    reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=generated)


def test_without_limits_everything_enters() -> None:
    admission, _ = make()
    for _ in range(1000):
        admission.reserve("acme", Policy(), prompt_tokens=10, max_tokens=100)
    assert admission.headers("acme", Policy()) == {}


def test_tokens_are_reserved_at_entry_and_the_rest_refunded_at_exit() -> None:
    admission, clock = make()
    policy = Policy(tpm=1000)
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
    clock.now += 61
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "1000"


def test_tenants_do_not_share_a_rate() -> None:
    admission, _ = make()
    admission.reserve("acme", Policy(tpm=100), prompt_tokens=50, max_tokens=50)
    admission.reserve("globex", Policy(tpm=100), prompt_tokens=50, max_tokens=50)


def test_settling_and_releasing_twice_counts_once() -> None:
    admission, _ = make()
    policy = Policy(tpm=1000, max_concurrency=1)
    reservation = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100)
    for _ in range(3):
        used(reservation, 100, 100)
        reservation.release()
        reservation.consume(5)
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "800"
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_what_is_consumed_in_a_stream_leaves_the_window_a_minute_after_it_was_used() -> None:
    admission, clock = make()
    policy = Policy(tpm=1000)
    stream = admission.reserve("acme", policy, prompt_tokens=100, max_tokens=900)
    stream.consume(100 + 400)
    clock.now += 61
    stream.consume(100)
    remaining = admission.headers("acme", policy)["x-ratelimit-remaining-tokens"]
    assert remaining == str(1000 - 100 - 400)  # used in the last minute, still reserved
    used(stream, 100, 500)
    assert admission.headers("acme", policy)["x-ratelimit-remaining-tokens"] == "900"


def test_requests_per_minute_are_not_refunded() -> None:
    admission, clock = make()
    policy = Policy(rpm=2)
    for _ in range(2):
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1).release()
    with pytest.raises(RateLimited) as refused:
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)
    assert refused.value.limit == "rpm"
    clock.now += refused.value.retry_after_s
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_a_refused_request_changes_nothing() -> None:
    admission, _ = make()
    policy = Policy(rpm=5, tpm=100, max_concurrency=1)
    admission.reserve("acme", policy, prompt_tokens=10, max_tokens=10)
    before = admission.headers("acme", policy)
    for _ in range(10):
        with pytest.raises(TooManyConcurrent):
            admission.reserve("acme", policy, prompt_tokens=10, max_tokens=10)
    assert admission.headers("acme", policy) == before
    assert admission.reserved_tokens("acme") == 20


def test_concurrency_counts_sequences() -> None:
    admission, _ = make()
    policy = Policy(max_concurrency=4)
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1, n=3)
    with pytest.raises(TooManyConcurrent) as refused:
        admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1, n=2)
    assert 1 <= refused.value.retry_after_s <= 120
    admission.reserve("acme", policy, prompt_tokens=1, max_tokens=1)


def test_a_change_of_policy_holds_from_the_next_call() -> None:
    admission, _ = make()
    admission.reserve("acme", Policy(tpm=1000), prompt_tokens=100, max_tokens=100)
    with pytest.raises(RateLimited):
        admission.reserve("acme", Policy(tpm=300), prompt_tokens=100, max_tokens=100)
    admission.reserve("acme", Policy(tpm=400), prompt_tokens=100, max_tokens=100)
    assert admission.headers("acme", Policy(tpm=100))["x-ratelimit-remaining-tokens"] == "0"


@pytest.mark.parametrize(
    ("policy", "tokens", "n", "limit", "arithmetic"),
    [
        (Policy(tpm=100), (50, 51), 1, "tpm", "50 prompt + 51 max_tokens = 101"),
        (Policy(tpm=100), (50, 20), 3, "tpm", "50 prompt + 3 x 20 max_tokens = 110"),
        (Policy(token_budget=100), (1, 100), 1, "token_budget", "= 101 tokens, above token_budget 100"),
        (
            Policy(max_concurrency=2),
            (1, 1),
            3,
            "max_concurrency",
            "n=3 sequences are above max_concurrency 2",
        ),
        (
            Policy(kv_limit=0.5),
            (800, 2),
            1,
            "kv_limit",
            "801 tokens / 16 per block = 51 KV blocks; kv_limit 0.5",
        ),
        (Policy(), (1600, 2), 1, "kv_limit", "kv_limit 1 x 100 blocks allows 100"),
    ],
)
def test_what_could_never_fit_is_refused_with_the_arithmetic(
    policy: Policy, tokens: tuple[int, int], n: int, limit: str, arithmetic: str
) -> None:
    admission, _ = make()
    with pytest.raises(NeverFits, match=arithmetic.replace("+", r"\+")) as refused:
        admission.reserve("acme", policy, prompt_tokens=tokens[0], max_tokens=tokens[1], n=n)
    assert refused.value.limit == limit
    assert refused.value.asked > refused.value.allowed


def test_what_just_fits_enters() -> None:
    admission, _ = make()
    admission.reserve("acme", Policy(kv_limit=0.5), prompt_tokens=800, max_tokens=1)
    admission.reserve("acme", Policy(), prompt_tokens=1500, max_tokens=101)


@pytest.mark.parametrize("policy", [Policy(kv_limit=0.3), Policy(tpm=333), Policy(kv_limit=0.9, tpm=10_000)])
@pytest.mark.parametrize("n", [1, 3])
def test_fitting_max_tokens_is_the_largest_that_fits(policy: Policy, n: int) -> None:
    admission, _ = make()
    largest = admission.fitting_max_tokens(policy, prompt_tokens=77, n=n)
    assert largest >= 1
    admission.check_fits(policy, prompt_tokens=77, max_tokens=largest, n=n)
    with pytest.raises(NeverFits):
        admission.check_fits(policy, prompt_tokens=77, max_tokens=largest + 1, n=n)


def test_a_budget_holds_for_its_period_and_starts_anew() -> None:
    start = datetime(2027, 1, 31, 23, 0, tzinfo=UTC).timestamp()
    admission, clock = make(Clock(start))
    policy = Policy(token_budget=1000, budget_period=BudgetPeriod.DAY)
    used(admission.reserve("acme", policy, prompt_tokens=100, max_tokens=600), 100, 600)
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=300)
    assert refused.value.retry_after_s == 120  # the longest that clients follow; the message has the rest
    assert "700 are used" in str(refused.value)
    assert "ends in 3600 s" in str(refused.value)
    clock.now += 3600
    admission.reserve("acme", policy, prompt_tokens=100, max_tokens=900)


def test_a_budget_that_is_only_reserved_is_worth_an_early_retry() -> None:
    admission, _ = make()
    policy = Policy(token_budget=1000)
    admission.reserve("acme", policy, prompt_tokens=100, max_tokens=800)
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=300)
    assert refused.value.retry_after_s < 10


def test_a_budget_is_restored_from_the_ledger() -> None:
    admission, _ = make()
    policy = Policy(token_budget=1000)
    admission.restore_budget("acme", policy, used_tokens=900)
    with pytest.raises(BudgetExhausted):
        admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100)


def test_changing_the_period_keeps_what_was_used() -> None:
    admission, _ = make()
    day = Policy(token_budget=1000, budget_period=BudgetPeriod.DAY)
    used(admission.reserve("acme", day, prompt_tokens=100, max_tokens=800), 100, 800)
    month = dataclasses.replace(day, budget_period=BudgetPeriod.MONTH)
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
    admission, clock = make(Clock(1000.5))
    policy = Policy(rpm=10, tpm=1000)
    assert admission.headers("acme", policy)["x-ratelimit-reset-requests"] == "0s"
    used(admission.reserve("acme", policy, prompt_tokens=100, max_tokens=100), 100, 20)
    clock.now += 10
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
    policy = Policy(rpm=10**6, tpm=10**9, token_budget=10**12, max_concurrency=1000)
    durations = []
    for i in range(2000):
        start = time.perf_counter()
        reservation = admission.reserve(f"t{i % 50}", policy, prompt_tokens=10, max_tokens=100)
        reservation.settle(prompt_tokens=10, cached_tokens=0, generated_tokens=20)
        durations.append(time.perf_counter() - start)
    assert sorted(durations)[int(len(durations) * 0.99)] < 0.001


TPM, RPM, CONCURRENCY, BUDGET = 300, 12, 6, 4000


class AnyInterleaving(RuleBasedStateMachine):
    """Requests enter, stream, finish, fail and vanish in any order; no minute ever holds too much."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.admission, self.clock = make()
        self.policy = Policy(rpm=RPM, tpm=TPM, max_concurrency=CONCURRENCY, token_budget=BUDGET)
        self.open: list[tuple[Reservation, int, int, int]] = []  # reservation, prompt, most, sequences
        self.consumed: dict[int, int] = {}
        self.used: list[tuple[float, int]] = []
        self.entered: list[float] = []

    @rule(pause_s=st.sampled_from([0.0, 0.3, 1.0, 7.0, 29.5, 60.0, 61.0]))
    def wait(self, pause_s: float) -> None:
        self.clock.now += pause_s

    @rule(target=reservations, prompt=st.integers(1, 120), most=st.integers(0, 120), n=st.integers(1, 3))
    def enter(self, prompt: int, most: int, n: int) -> object:
        try:
            reservation = self.admission.reserve(
                "acme", self.policy, prompt_tokens=prompt, max_tokens=most, n=n
            )
        except NeverFits:
            assert prompt + n * most > TPM
            return None
        except TryLater as refused:
            assert 1 <= refused.retry_after_s <= 120
            self.check_retry(refused, prompt, most, n)
            return None
        self.entered.append(self.clock.now)
        entry = (reservation, prompt, n * most, n)
        self.open.append(entry)
        return entry

    def check_retry(self, refused: TryLater, prompt: int, most: int, n: int) -> None:
        """With nothing under way, whoever waits as told is let in."""
        if self.open or isinstance(refused, BudgetExhausted):
            return
        self.clock.now += refused.retry_after_s
        try:
            again = self.admission.reserve("acme", self.policy, prompt_tokens=prompt, max_tokens=most, n=n)
        except TryLater as second:
            assert second.limit != refused.limit
        else:
            self.entered.append(self.clock.now)
            again.release()

    @rule(entry=reservations, share=st.floats(0, 1))
    def stream(self, entry: object, share: float) -> None:
        if entry not in self.open:
            return
        reservation, prompt, most, _ = entry  # type: ignore[misc]
        before = self.consumed.get(id(reservation), 0)
        tokens = int(share * (prompt + most - before))
        reservation.consume(tokens)
        self.used.append((self.clock.now, tokens))
        self.consumed[id(reservation)] = before + tokens

    @rule(entry=consumes(reservations), share=st.floats(0, 1), twice=st.booleans())
    def finish(self, entry: object, share: float, twice: bool) -> None:
        if entry not in self.open:
            return
        reservation, prompt, most, _ = entry  # type: ignore[misc]
        before = self.consumed.get(id(reservation), 0)
        total = max(before, prompt + int(share * most))
        for _ in range(2 if twice else 1):
            reservation.settle(prompt_tokens=prompt, cached_tokens=prompt, generated_tokens=total - prompt)
        self.used.append((self.clock.now, total - before))
        self.open.remove(entry)

    @rule(entry=consumes(reservations))
    def vanish(self, entry: object) -> None:
        if entry in self.open:
            entry[0].release()  # type: ignore[index]
            self.open.remove(entry)

    @precondition(lambda self: self.used)
    @invariant()
    def no_minute_holds_more_than_tpm(self) -> None:
        now = self.clock.now
        assert sum(tokens for at, tokens in self.used if at >= now - 60) <= TPM

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        now = self.clock.now
        assert sum(1 for at in self.entered if at >= now - 60) <= RPM
        assert sum(n for *_, n in self.open) <= CONCURRENCY
        assert sum(tokens for _, tokens in self.used) <= BUDGET

    def teardown(self) -> None:
        for reservation, *_ in self.open:
            reservation.release()
        assert self.admission.reserved_tokens("acme") == 0
        self.clock.now += 61
        headers = self.admission.headers("acme", self.policy)
        assert headers["x-ratelimit-remaining-tokens"] == str(TPM)
        assert headers["x-ratelimit-remaining-requests"] == str(RPM)
        account = self.admission._accounts.get("acme")
        assert account is None or account.sequences == 0


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
