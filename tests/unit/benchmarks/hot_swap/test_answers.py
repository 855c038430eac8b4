"""Answers under swaps: which count as failed, mixed and stale."""

from __future__ import annotations

import pytest

from benchmarks.harness.client import RequestResult
from benchmarks.hot_swap.answers import ReferenceAnswers, Swap, check_answers, held_out_prompts

ANSWERS = ReferenceAnswers("acme-support", "globex-tools", {1: {"p": "one"}, 2: {"p": "two"}}, {"p": "other"})


def answer(text: str, sent_s: float, end_s: float, model: str = "acme-support", error: str | None = None):
    return "p", RequestResult(0, "t", model, sent_s, sent_s, [end_s], end_s, text=text, error=error)


def swap(version: int, sent_s: float, returned_s: float) -> Swap:
    return Swap(version, sent_s, returned_s, answer("", returned_s, returned_s)[1], returned_s + 1)


SWAPS = [swap(2, 10, 11), swap(1, 20, 21)]


@pytest.mark.parametrize(
    ("text", "sent_s", "failed", "mixed", "stale"),
    [
        ("two", 12, 0, 0, 0),
        ("one", 12, 0, 0, 1),
        ("two", 22, 0, 0, 1),
        ("one", 22, 0, 0, 0),
        ("one", 10.5, 0, 0, 0),  # while the promotion runs, either may answer
        ("two", 10.5, 0, 0, 0),
        ("two", 19.5, 0, 0, 0),  # sent before a promotion, but it may have been routed after it
        ("one", 19.5, 0, 0, 0),
        ("onetwo", 12, 0, 1, 0),
        ("", 12, 0, 1, 0),
    ],
)
def test_answers_are_compared_with_the_versions_that_may_have_served(
    text: str, sent_s: float, failed: int, mixed: int, stale: int
) -> None:
    counts = check_answers([answer(text, sent_s, sent_s + 1)], ANSWERS, SWAPS)
    assert (counts.failed, counts.mixed, counts.stale) == (failed, mixed, stale)


def test_failed_requests_are_not_compared() -> None:
    counts = check_answers([answer("", 12, 13, error="http_503")], ANSWERS, SWAPS)
    assert (counts.failed, counts.mixed, counts.stale) == (1, 0, 0)


def test_only_answers_with_one_possible_version_are_dated() -> None:
    answers = [answer("two", 12, 13), answer("two", 19, 22), answer("two", 10.5, 12), answer("one", 5, 6)]
    assert check_answers(answers, ANSWERS, SWAPS).dated == 1


def test_the_other_adapter_must_always_give_its_own_answer() -> None:
    other = [answer(text, 12, 13, model="globex-tools") for text in ("other", "two")]
    assert check_answers(other, ANSWERS, SWAPS).mixed == 1


def test_requests_across_a_swap_are_counted() -> None:
    answers = [answer("one", 9, 12), answer("two", 12, 13), answer("two", 19, 22)]
    assert check_answers(answers, ANSWERS, SWAPS).across == 2


def test_prompts_come_from_both_tenants() -> None:
    prompts = held_out_prompts()
    assert len(prompts) == 12 and all(prompts)


@pytest.mark.parametrize(("text", "mixed"), [("one too", 0), ("one", 1), ("two too", 0), ("two", 1)])
def test_a_blends_answers_are_compared_with_those_of_blends(text: str, mixed: int) -> None:
    blended = {1: {"p": "one too"}, 2: {"p": "two too"}}
    reference = ReferenceAnswers(
        "acme-support", "globex-tools", ANSWERS.versions, ANSWERS.other_answers, "acme-tone", blended
    )
    assert reference.blend("acme-tone") == (("acme-support", 1.0), ("acme-tone", 0.5))
    assert reference.blend("acme-support") == ()
    counts = check_answers([answer(text, 5, 6, "acme-tone")], reference, SWAPS)
    assert (counts.failed, counts.mixed) == (0, mixed)
