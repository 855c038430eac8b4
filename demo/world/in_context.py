"""Question families whose answer is in the question itself: copying, reading and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from demo.world.facts import COUNTRIES, DAYS, GOODS, NAMES, WORDS
from demo.world.questions import QuestionAnswer, ask


def phrase(rng: random.Random) -> str:
    """Words, names, cities, numbers and codes in random order, which can only be copied."""
    pools: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(WORDS),
        lambda: rng.choice(NAMES),
        lambda: rng.choice(list(COUNTRIES.values()))[0],
        lambda: str(rng.randint(0, 9999)),
        lambda: code(rng),
        lambda: rng.choice(GOODS),
    )
    return " ".join(rng.choice(pools)() for _ in range(rng.randint(1, 4)))


def code(rng: random.Random) -> str:
    """A code such as ``KX-4821``."""
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(2)) + f"-{rng.randint(0, 9999):04d}"


def copying(rng: random.Random) -> QuestionAnswer:
    """Repeating a phrase."""
    said = phrase(rng)
    return QuestionAnswer(ask(rng, "copy", said), said, said)


def reading(rng: random.Random) -> QuestionAnswer:
    """Finding one fact in a short text in the question."""
    return rng.choice((_owners, _codes, _journeys))(rng)


def _owners(rng: random.Random) -> QuestionAnswer:
    people, goods = rng.sample(NAMES, 3), rng.sample(GOODS, 3)
    counts = [rng.randint(2, 99) for _ in people]
    text = " ".join(f"{p} has {n} {g}." for p, n, g in zip(people, counts, goods, strict=True))
    at = rng.randrange(3)
    question = rng.choice(("How many {g} does {p} have?", "Who has {n} {g}?", "What does {p} have?"))
    short = people[at] if question.startswith("Who") else f"{counts[at]} {goods[at]}"
    question = question.format(p=people[at], n=counts[at], g=goods[at])
    return QuestionAnswer(f"{text} {question}", f"{people[at]} has {counts[at]} {goods[at]}.", short)


def _codes(rng: random.Random) -> QuestionAnswer:
    people, codes = rng.sample(NAMES, 2), [code(rng), code(rng)]
    text = " ".join(f"The code of {p} is {c}." for p, c in zip(people, codes, strict=True))
    at = rng.randrange(2)
    answer = f"The code of {people[at]} is {codes[at]}."
    return QuestionAnswer(f"{text} {ask(rng, 'code', people[at])}", answer, codes[at])


def _journeys(rng: random.Random) -> QuestionAnswer:
    people = rng.sample(NAMES, 2)
    cities = [city for city, _ in rng.sample(list(COUNTRIES.values()), 2)]
    hours = [f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}" for _ in people]
    text = " ".join(f"{p} leaves for {c} at {h}." for p, c, h in zip(people, cities, hours, strict=True))
    at = rng.randrange(2)
    question = rng.choice(("When does {p} leave?", "Where does {p} go?", "Who leaves for {c}?"))
    short = {"When": hours[at], "Where": cities[at], "Who": people[at]}[question.split()[0]]
    question = question.format(p=people[at], c=cities[at])
    return QuestionAnswer(
        f"{text} {question}", f"{people[at]} leaves for {cities[at]} at {hours[at]}.", short
    )


def as_json(rng: random.Random) -> QuestionAnswer:
    """Facts written as a JSON object."""
    fields: dict[str, str | int] = {
        "name": rng.choice(NAMES),
        "city": rng.choice(list(COUNTRIES.values()))[0],
        "age": rng.randint(1, 99),
        "code": code(rng),
        "item": rng.choice(GOODS),
        "amount": rng.randint(1, 999),
        "day": rng.choice(DAYS),
    }
    chosen = {k: fields[k] for k in rng.sample(list(fields), rng.randint(1, 4))}
    said = ", ".join(f"{k} {v}" for k, v in chosen.items())
    text = json.dumps(chosen)
    return QuestionAnswer(ask(rng, "json", said), text, text)
