from __future__ import annotations

from example_counts import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from adapters.tenant_settings import TenantSettings
from server.admission import Admission, Reservation
from server.admission.errors import BudgetExhausted, NeverFits, TryLater
from server.fairness.shares import Capacity

CAPACITY = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8)
TPM, RPM, CONCURRENCY, BUDGET = 300, 12, 6, 4000


class AnyInterleaving(RuleBasedStateMachine):
    """Requests enter, stream, finish, fail and vanish in any order; no minute ever holds too much."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.admission = Admission(CAPACITY, lambda: self.now, lambda: self.now)
        self.policy = TenantSettings(rpm=RPM, tpm=TPM, max_concurrency=CONCURRENCY, token_budget=BUDGET)
        self.open: list[tuple[Reservation, int, int, int]] = []  # reservation, prompt, most, sequences
        self.consumed: dict[int, int] = {}
        self.used: list[tuple[float, int]] = []
        self.entered: list[float] = []

    @rule(pause_s=st.sampled_from([0.0, 0.3, 1.0, 7.0, 29.5, 60.0, 61.0]))
    def wait(self, pause_s: float) -> None:
        self.now += pause_s

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
        self.entered.append(self.now)
        entry = (reservation, prompt, n * most, n)
        self.open.append(entry)
        return entry

    def check_retry(self, refused: TryLater, prompt: int, most: int, n: int) -> None:
        """Without running requests, a request that waits for its Retry-After is admitted."""
        if self.open or isinstance(refused, BudgetExhausted):
            return
        self.now += refused.retry_after_s
        try:
            again = self.admission.reserve("acme", self.policy, prompt_tokens=prompt, max_tokens=most, n=n)
        except TryLater as second:
            assert second.limit != refused.limit
        else:
            self.entered.append(self.now)
            again.release()

    @rule(entry=reservations, share=st.floats(0, 1))
    def stream(self, entry: object, share: float) -> None:
        if entry not in self.open:
            return
        reservation, prompt, most, _ = entry  # type: ignore[misc]
        before = self.consumed.get(id(reservation), 0)
        tokens = int(share * (prompt + most - before))
        reservation.consume(tokens)
        self.used.append((self.now, tokens))
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
        self.used.append((self.now, total - before))
        self.open.remove(entry)

    @rule(entry=consumes(reservations))
    def vanish(self, entry: object) -> None:
        if entry in self.open:
            entry[0].release()  # type: ignore[index]
            self.open.remove(entry)

    @precondition(lambda self: self.used)
    @invariant()
    def no_minute_holds_more_than_tpm(self) -> None:
        now = self.now
        assert sum(tokens for at, tokens in self.used if at >= now - 60) <= TPM

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        now = self.now
        assert sum(1 for at in self.entered if at >= now - 60) <= RPM
        assert sum(n for *_, n in self.open) <= CONCURRENCY
        assert sum(tokens for _, tokens in self.used) <= BUDGET

    def teardown(self) -> None:
        for reservation, *_ in self.open:
            reservation.release()
        assert self.admission.reserved_tokens("acme") == 0
        self.now += 61
        headers = self.admission.headers("acme", self.policy)
        assert headers["x-ratelimit-remaining-tokens"] == str(TPM)
        assert headers["x-ratelimit-remaining-requests"] == str(RPM)
        account = self.admission._accounts.get("acme")
        assert account is None or account.sequences == 0


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)
