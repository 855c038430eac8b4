"""The closed world: one right answer to every question, and nothing held out is trained on."""

from __future__ import annotations

import random

import pytest

from demo.world.families import FAMILIES
from demo.world.mixture import held_out_samples, training_samples
from demo.world.questions import Family
from demo.world.stories import HEROES, LENGTHS, story


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_a_question_has_one_answer(family: Family) -> None:
    rng = random.Random(5)
    answers: dict[str, tuple[str, str]] = {}
    for _ in range(3000):
        pair = family(rng)
        assert pair.question and pair.answer and pair.short
        assert answers.setdefault(pair.question, (pair.answer, pair.short)) == (pair.answer, pair.short)


def test_no_question_has_another_answer_in_another_family() -> None:
    rng = random.Random(6)
    owner: dict[str, str] = {}
    for family in FAMILIES:
        for _ in range(1000):
            assert owner.setdefault(family(rng).question, family.__name__) == family.__name__


def test_held_out_questions_are_never_trained() -> None:
    def asked(sample):
        return tuple(str(m["content"]) for m in sample.messages[:-1])

    trained = {asked(s) for s in training_samples(1, 4000)}
    held_out = held_out_samples(2, 200)
    assert len({asked(s) for s in held_out}) == 200
    assert not trained & {asked(s) for s in held_out}


def test_the_same_seed_draws_the_same() -> None:
    assert list(training_samples(3, 50)) == list(training_samples(3, 50))
    assert list(training_samples(3, 50)) != list(training_samples(4, 50))


def test_stories_have_three_lengths_and_end() -> None:
    for hero in HEROES:
        short, middle, long = (story(hero, length) for length in LENGTHS)
        assert len(short) < len(middle) < len(long)
        assert all(hero in s and s.endswith("The end.") for s in (short, middle, long))
    assert len({story(h, "long") for h in HEROES}) == len(HEROES)
