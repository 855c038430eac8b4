"""Budgets in money, and the limits of keys beside those of their tenant."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_clock import ManualClock

from adapters.billing.prices import Price
from adapters.models import Key, Role
from adapters.tenant_settings import BudgetPeriod, KeyLimits, TenantSettings
from server.admission import Admission
from server.admission.claims import KEY_PREFIX
from server.admission.errors import BudgetExhausted, NeverFits, RateLimited, TooManyConcurrent
from server.fairness.shares import Capacity

CAPACITY = Capacity(kv_blocks=1000, block_size_tokens=16, max_num_seqs=8)
#: One unit of money per thousand prompt tokens, a half of that if cached, two per thousand generated tokens.
PRICE = Price(1_000_000_000, 500_000_000, 2_000_000_000)
UNLIMITED = TenantSettings()


def key_of(account: str = "k_1", **limits: object) -> Key:
    now = datetime.now(UTC)
    return Key(
        account,
        "acme",
        Role.INFERENCE,
        "lg-",
        "0",
        None,
        None,
        None,
        now,
        "",
        KeyLimits.parse(limits),
        account,
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def admission(clock: ManualClock) -> Admission:
    return Admission(CAPACITY, clock, clock)


def test_money_is_reserved_in_full_and_settled_to_the_cost(admission: Admission) -> None:
    budget = TenantSettings.parse({"money_budget": "1.0"})
    running = admission.reserve("acme", budget, prompt_tokens=200, max_tokens=300, price=PRICE)  # 0.2 + 0.6
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", budget, prompt_tokens=101, max_tokens=50, price=PRICE)
    assert str(refused.value).startswith(
        "The request may cost 0.201; 0 is used and 0.8 reserved of the money_budget 1 per month, which ends in"
    )
    assert (refused.value.limit, refused.value.asked) == ("money_budget", 201_000_000)
    assert (refused.value.used, refused.value.allowed) == (800_000_000, 10**9)
    running.settle(prompt_tokens=200, cached_tokens=100, generated_tokens=100)  # 0.1 + 0.05 + 0.2
    account = admission.accounts["acme"]
    assert (account.period_used_nanos, account.reserved_nanos) == (350_000_000, 0)
    admission.reserve("acme", budget, prompt_tokens=150, max_tokens=250, price=PRICE).release()
    assert (account.period_used_nanos, account.reserved_nanos) == (350_000_000, 0)


def test_a_free_model_needs_no_money(admission: Admission) -> None:
    budget = TenantSettings.parse({"money_budget": "0.000001"})
    admission.reserve("acme", budget, prompt_tokens=200, max_tokens=300)


def test_what_costs_more_than_the_whole_budget_never_fits(admission: Admission) -> None:
    budget = TenantSettings.parse({"money_budget": "0.5"})
    with pytest.raises(
        NeverFits, match=r"300 max_tokens and cost 0\.6, above money_budget 0\.5\. Send a shorter"
    ):
        admission.reserve("acme", budget, prompt_tokens=0, max_tokens=300, price=PRICE)
    fitting = admission.fitting_max_tokens(budget, prompt_tokens=100, n=2, price=PRICE)
    assert fitting == 100  # (0.5 - 0.1) / (2 x 0.002)
    admission.reserve("acme", budget, prompt_tokens=100, max_tokens=fitting, n=2, price=PRICE).release()
    with pytest.raises(NeverFits):
        admission.reserve("acme", budget, prompt_tokens=100, max_tokens=fitting + 1, n=2, price=PRICE)
    key = key_of(money_budget="0.3")
    assert admission.fitting_max_tokens(budget, prompt_tokens=100, price=PRICE, key=key) == 100


def test_a_budget_begins_anew_with_its_period(admission: Admission, clock: ManualClock) -> None:
    budget = TenantSettings.parse({"money_budget": "1", "budget_period": "day"})
    admission.reserve("acme", budget, prompt_tokens=1000, max_tokens=0, price=PRICE).settle(
        prompt_tokens=1000, cached_tokens=0, generated_tokens=0
    )
    with pytest.raises(BudgetExhausted) as refused:
        admission.reserve("acme", budget, prompt_tokens=1, max_tokens=1, price=PRICE)
    assert refused.value.retry_after_s == 120.0
    clock.now_s += 86_400
    admission.reserve("acme", budget, prompt_tokens=1, max_tokens=1, price=PRICE)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"rpm": 1}, RateLimited, "rpm of this key is 1"),
        ({"tpm": 150}, RateLimited, "tpm of this key is 150"),
        ({"max_concurrency": 1}, TooManyConcurrent, "max_concurrency of this key is 1"),
        (
            {"token_budget": 150},
            BudgetExhausted,
            "token_budget of this key 150 per month.*ask the key's admin",
        ),
        (
            {"money_budget": "0.15"},
            BudgetExhausted,
            "money_budget of this key 0.15 per month.*ask the key's admin",
        ),
    ],
)
def test_a_keys_limits_hold_beside_its_tenants(
    admission: Admission, limits: dict[str, object], error: type[Exception], message: str
) -> None:
    key, other = key_of(**limits), key_of("k_2", **limits)
    request = {"prompt_tokens": 100, "max_tokens": 0, "price": PRICE}
    admission.reserve("acme", UNLIMITED, **request, key=key)
    with pytest.raises(error, match=message):
        admission.reserve("acme", UNLIMITED, **request, key=key)
    admission.reserve("acme", UNLIMITED, **request, key=other)
    admission.reserve("acme", UNLIMITED, **request)


def test_a_refusal_by_the_key_changes_no_count_of_the_tenant(admission: Admission) -> None:
    tenant, key = TenantSettings(rpm=10, tpm=1000), key_of(tpm=100)
    for _ in range(20):
        with pytest.raises(NeverFits, match="above tpm of this key 100"):
            admission.reserve("acme", tenant, prompt_tokens=100, max_tokens=1, key=key)
    running = admission.reserve("acme", tenant, prompt_tokens=60, max_tokens=0, key=key)
    for _ in range(20):
        with pytest.raises(RateLimited):
            admission.reserve("acme", tenant, prompt_tokens=60, max_tokens=0, key=key)
    assert admission.headers("acme", tenant)["x-ratelimit-remaining-tokens"] == "940"
    running.release()
    assert admission.headers("acme", tenant, key)["x-ratelimit-remaining-tokens"] == "100", (
        "the key's are fewer"
    )
    assert admission.headers("acme", tenant, key)["x-ratelimit-remaining-requests"] == "9", (
        "the tenant's alone"
    )


def test_a_restart_does_not_refill_budgets(admission: Admission, clock: ManualClock) -> None:
    clock.now_s = time.time()
    key = key_of(money_budget="1", token_budget=500, budget_period="day")
    admission.restore_budget(KEY_PREFIX + "k_1", key.limits, used_tokens=400, used_nanos=950_000_000)
    with pytest.raises(BudgetExhausted, match="money_budget"):
        admission.reserve("acme", UNLIMITED, prompt_tokens=51, max_tokens=0, price=PRICE, key=key)
    with pytest.raises(BudgetExhausted, match="token_budget"):
        admission.reserve("acme", UNLIMITED, prompt_tokens=101, max_tokens=0, key=key)
    admission.reserve("acme", UNLIMITED, prompt_tokens=50, max_tokens=0, price=PRICE, key=key)


def test_tokenizing_costs_nothing_and_counts_in_the_keys_rates(admission: Admission) -> None:
    key = key_of(rpm=1, money_budget="0.000001")
    admission.reserve_tokenizing("acme", UNLIMITED, tokens=100, key=key).settle(
        prompt_tokens=100, cached_tokens=0, generated_tokens=0
    )
    assert admission.accounts[KEY_PREFIX + "k_1"].period_used_nanos == 0
    with pytest.raises(RateLimited):
        admission.reserve_tokenizing("acme", UNLIMITED, tokens=100, key=key)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200), st.booleans()), max_size=60))
def test_used_and_reserved_money_never_exceed_a_budget(requests: list[tuple[int, int, bool]]) -> None:
    admission = Admission(CAPACITY, ManualClock(), ManualClock())
    tenant = TenantSettings(money_budget=Decimal(2), budget_period=BudgetPeriod.DAY)
    key = key_of(money_budget="1.5")
    running = []
    for prompt, answer, ends in requests:
        try:
            reservation = admission.reserve(
                "acme", tenant, prompt_tokens=prompt, max_tokens=answer, price=PRICE, key=key
            )
            running.append((reservation, prompt, answer))
        except BudgetExhausted:
            pass
        for name, budget in (("acme", 2 * 10**9), (KEY_PREFIX + "k_1", 15 * 10**8)):
            account = admission.accounts[name]
            assert account.period_used_nanos + account.reserved_nanos <= budget
        if ends and running:
            reservation, prompt, answer = running.pop(0)
            reservation.settle(prompt_tokens=prompt, cached_tokens=prompt // 2, generated_tokens=answer // 2)
    for reservation, prompt, _ in running:
        reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=0)
    assert all(account.reserved_nanos == 0 for account in admission.accounts.values())


def test_background_work_is_within_the_budget_in_money_too() -> None:
    """What it costs is in the ledger, from which a restart takes what is used: both must be the same."""
    admission = Admission(CAPACITY, ManualClock())
    settings = TenantSettings(money_budget=Decimal(5), tpm=5000)
    running = [
        admission.reserve_background("acme", settings, prompt_tokens=500, max_tokens=500, price=PRICE)
        for _ in range(3)
    ]
    account = admission.accounts["acme"]
    assert account.reserved_nanos == 4_500_000_000
    with pytest.raises(BudgetExhausted, match="money_budget"):
        admission.reserve_background("acme", settings, prompt_tokens=500, max_tokens=500, price=PRICE)
    with pytest.raises(BudgetExhausted, match="money_budget"):
        admission.reserve("acme", settings, prompt_tokens=1000, max_tokens=1, price=PRICE, key=key_of())
    for work in running:
        work.settle(prompt_tokens=500, cached_tokens=0, generated_tokens=250)
        work.release()
    assert (account.reserved_nanos, account.period_used_nanos) == (0, 3_000_000_000)
    with pytest.raises(NeverFits, match="money_budget"):
        admission.reserve_background("acme", settings, prompt_tokens=1000, max_tokens=2001, price=PRICE)
    assert admission.accounts.keys() == {"acme", KEY_PREFIX + "k_1"}
    assert admission.accounts[KEY_PREFIX + "k_1"].period_used_nanos == 0


def test_copies_leave_a_part_of_the_money_to_requests() -> None:
    admission = Admission(CAPACITY, ManualClock())
    settings = TenantSettings(money_budget=Decimal(4))
    admission.check_budget_left("acme", settings, 0.5)
    admission.reserve("acme", settings, prompt_tokens=1001, max_tokens=500, price=PRICE)
    with pytest.raises(BudgetExhausted, match="money_budget"):
        admission.check_budget_left("acme", settings, 0.5)
