"""When the tokens of running requests are charged to their tenants."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from server.fairness.shares import Share
from server.fairness.token_charges import TokenCharges
from server.fairness.waiting_queue import Entry


@dataclass
class Progress:
    """How many tokens a request has generated; below 0 during its prompt."""

    generated: int = 0


def entry(name: str, tenant: str, weight: float = 1.0) -> Entry:
    return Entry(name, tenant, Share(weight), 0, 0, Progress())


@pytest.fixture
def charges() -> TokenCharges:
    return TokenCharges(lambda progress: progress.generated)


def test_generated_tokens_are_charged_in_each_step_and_at_the_end(charges: TokenCharges) -> None:
    running = entry("r1", "acme", weight=2.0)
    charges.open(running)
    for generated, charged in ((0, 0), (1, 1), (3, 3), (-4, 3), (2, 3), (5, 5)):
        running.item.generated = generated
        charges.note_step()
        for _ in range(2):
            assert charges.virtual_counters.of("acme") == charged, "two for each token, divided by the weight"
    running.item.generated = 8
    charges.close("r1")
    running.item.generated = 100
    charges.note_step()
    assert charges.virtual_counters.of("acme") == 8


def test_progress_is_read_once_a_step(charges: TokenCharges) -> None:
    running = entry("r1", "acme")
    charges.open(running)
    charges.note_step()
    assert charges.virtual_counters.of("acme") == 0
    running.item.generated = 1
    assert charges.virtual_counters.of("acme") == 0
    charges.note_step()
    assert charges.virtual_counters.of("acme") == 2


@pytest.mark.parametrize(
    ("starts", "charged"),
    [
        ([(100, 0)], 100),
        ([(100, 30)], 70),
        ([(100, 100)], 0),
        ([(100, 120)], 0),
        ([(100, 30), (100, 0)], 70),  # started again after a preemption
        ([(100, 30), (110, 0)], 80),  # with ten generated tokens that are computed again
        ([(100, 30), (110, 104)], 76),
    ],
)
def test_each_prompt_token_that_is_not_cached_is_charged_once(
    charges: TokenCharges, starts: list[tuple[int, int]], charged: float
) -> None:
    starting = entry("r1", "acme", weight=0.5)
    for prompt_tokens, cached_tokens in starts:
        charges.charge_prompt(starting, prompt_tokens, cached_tokens)
    assert charges.virtual_counters.of("acme") == charged * 2


def test_only_the_tenants_that_are_compared_are_charged(charges: TokenCharges) -> None:
    asked: list[Progress] = []

    def progress(item: Progress) -> int:
        asked.append(item)
        return item.generated

    charges = TokenCharges(progress)
    running = {tenant: entry(tenant, tenant) for tenant in ("acme", "globex", "initech")}
    for each in running.values():
        charges.open(each)
        each.item.generated = 3
    charges.note_step()
    service = charges.service_of(["acme", "globex"])
    assert asked == [running["acme"].item, running["globex"].item]
    assert (service("acme"), service("globex")) == (6, 6)
    assert charges.virtual_counters.of("initech") == 6


def test_a_tenant_is_charged_before_it_is_lifted(charges: TokenCharges) -> None:
    waiting, idle = entry("r1", "waiting"), entry("r2", "idle")
    for each in (waiting, idle):
        charges.open(each)
    charges.note_step()
    waiting.item.generated, idle.item.generated = 5, 1
    charges.lift("idle", ["waiting"])
    assert charges.virtual_counters.of("idle") == 10, "as much as the one that waits, and nothing on top"
