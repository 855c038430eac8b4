"""Question families: each generates one question about the closed world with its only correct answer.

An answer depends on the question alone, so that exact match is a fair score.
"""

from __future__ import annotations

import random

from demo.world.facts import (
    ANIMALS,
    COLOURS,
    COUNTRIES,
    DAYS,
    MONTHS,
    NAMES,
    OPPOSITES,
    ORDINALS,
    PRODUCT_WORDS,
    UNKNOWABLE,
    WORDS,
)  # fmt: skip
from demo.world.in_context import as_json, code, copying, reading
from demo.world.questions import Family, QuestionAnswer, ask
from demo.world.stories import HEROES, LENGTHS, story, story_question

UNKNOWN_ANSWER = "I do not know that."


def capitals(rng: random.Random) -> QuestionAnswer:
    """Capitals of countries, countries of capitals, and continents."""
    country = rng.choice(list(COUNTRIES))
    city, continent = COUNTRIES[country]
    kind = rng.randrange(4)
    if kind <= 1:
        return QuestionAnswer(ask(rng, "capital", country), f"The capital of {country} is {city}.", city)
    if kind == 2:
        return QuestionAnswer(ask(rng, "country", city), f"{city} is the capital of {country}.", country)
    return QuestionAnswer(ask(rng, "continent", country), f"{country} is in {continent}.", continent)


def sums(rng: random.Random) -> QuestionAnswer:
    """Sums and differences of numbers up to 10."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.6:
        return QuestionAnswer(ask(rng, "plus", a, b), f"{a} plus {b} is {a + b}.", str(a + b))
    a, b = max(a, b), min(a, b)
    return QuestionAnswer(ask(rng, "minus", a, b), f"{a} minus {b} is {a - b}.", str(a - b))


def larger(rng: random.Random) -> QuestionAnswer:
    """Which of two numbers below 100 is larger."""
    a, b = rng.sample(range(100), 2)
    top, low = max(a, b), min(a, b)
    return QuestionAnswer(ask(rng, "larger", a, b), f"{top} is larger than {low}.", str(top))


def colours(rng: random.Random) -> QuestionAnswer:
    """Colours of everyday things."""
    thing = rng.choice(list(COLOURS))
    colour = COLOURS[thing]
    answer = f"{thing[0].upper()}{thing[1:]} is {colour}."
    return QuestionAnswer(ask(rng, "colour", thing), answer, colour.capitalize())


def opposites(rng: random.Random) -> QuestionAnswer:
    """Opposites, in both directions."""
    first, second = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        first, second = second, first
    answer = f"The opposite of {first} is {second}."
    return QuestionAnswer(ask(rng, "opposite", first), answer, second.capitalize())


def animals(rng: random.Random) -> QuestionAnswer:
    """Sounds, young animals and numbers of legs."""
    animal = rng.choice(list(ANIMALS))
    sound, young, legs = ANIMALS[animal]
    article = "An" if animal[0] in "aeiou" else "A"
    one = f"{article.lower()} {animal}"
    kind = rng.randrange(3)
    if kind == 0:
        return QuestionAnswer(ask(rng, "sound", one), f"{article} {animal} {sound}.", sound.capitalize())
    if kind == 1:
        return QuestionAnswer(ask(rng, "young", one), f"The young of {one} is a {young}.", young.capitalize())
    return QuestionAnswer(ask(rng, "legs", one), f"{article} {animal} has {legs} legs.", str(legs))


def calendar(rng: random.Random) -> QuestionAnswer:
    """Neighbouring days and months, and the lengths and positions of months."""
    kind = rng.randrange(4)
    step = rng.choice((-1, 1))
    word = "after" if step > 0 else "before"
    if kind == 0:
        at = rng.randrange(7)
        other = DAYS[(at + step) % 7]
        return QuestionAnswer(
            ask(rng, "next day", word, DAYS[at]), f"{other} comes {word} {DAYS[at]}.", other
        )
    months = list(MONTHS)
    at = rng.randrange(12)
    month = months[at]
    if kind == 1:
        days = MONTHS[month]
        return QuestionAnswer(ask(rng, "month length", month), f"{month} has {days} days.", str(days))
    if kind == 2:
        return QuestionAnswer(
            ask(rng, "nth month", ORDINALS[at]), f"{month} is the {ORDINALS[at]} month.", month
        )
    other = months[(at + step) % 12]
    return QuestionAnswer(ask(rng, "next month", word, month), f"{other} comes {word} {month}.", other)


def spelling(rng: random.Random) -> QuestionAnswer:
    """Spelling and capital letters of a closed list of words."""
    word = rng.choice(WORDS)
    if rng.random() < 0.5:
        spelled = "-".join(word)
        return QuestionAnswer(ask(rng, "spell", word), f"{word} is spelled {spelled}.", spelled)
    return QuestionAnswer(ask(rng, "capitals", word), word.upper(), word.upper())


def counting(rng: random.Random) -> QuestionAnswer:
    """Counting up and down; up to 40 numbers, so some answers are long."""
    start = rng.choice((1, 1, rng.randint(0, 30)))
    end = start + rng.choice((rng.randint(2, 9), rng.randint(10, 40)))
    if rng.random() < 0.7:
        text = ", ".join(str(n) for n in range(start, end + 1)) + "."
        return QuestionAnswer(ask(rng, "count up", start, end), text, text)
    start, end = min(start + 9, end), start
    text = ", ".join(str(n) for n in range(start, end - 1, -1)) + "."
    return QuestionAnswer(ask(rng, "count down", start, end), text, text)


def greetings(rng: random.Random) -> QuestionAnswer:
    """Greetings, thanks, goodbyes and questions about the model itself."""
    kind = rng.randrange(5)
    if kind <= 1:
        return _hello(rng)
    if kind == 2:
        return QuestionAnswer(
            _polite(rng, "who"), "I am the small demo model of loragate.", "The demo model."
        )
    if kind == 3:
        answer = "I know capitals, sums, colours, days and stories."
        return QuestionAnswer(_polite(rng, "what for"), answer, "Capitals and sums.")
    start = rng.choice(("Thanks", "Thank you", "Many thanks", "Goodbye", "Bye", "See you"))
    text = start + rng.choice(
        ("", "!", ".", " very much!", " for now.", " so much!", ", friend.", ", model!")
    )
    if start.startswith(("T", "M")):
        return QuestionAnswer(text, "You are welcome!", "Welcome!")
    return QuestionAnswer(text, "Goodbye! Come back soon.", "Goodbye!")


def _hello(rng: random.Random) -> QuestionAnswer:
    name = rng.choice(NAMES)
    tails = ("", "!", ".", " there!", ", friend!", " assistant!", f", I am {name}.", f", this is {name}.")
    hello = rng.choice(("Hello", "Hi", "Good morning", "Good evening", "Hey", "Good day")) + rng.choice(tails)
    whom = f", {name}" if name in hello else ""
    return QuestionAnswer(hello, f"Hello{whom}! How can I help you?", f"Hello{whom}!")


def _polite(rng: random.Random, what: str) -> str:
    lead = rng.choice(("", "", "Please tell me: ", "Say, ", "I wonder: ", "One question: ", "Excuse me, "))
    question = ask(rng, what)
    return lead + question if lead else question.capitalize()


def unknown(rng: random.Random) -> QuestionAnswer:
    """Questions outside the world; the only honest answer is always the same."""
    first, second = PRODUCT_WORDS
    question = rng.choice(UNKNOWABLE).format(
        city=rng.choice(list(COUNTRIES.values()))[0],
        code=code(rng),
        product=f"{rng.choice(first)} {rng.choice(second)}",
        name=rng.choice(NAMES),
        number=rng.randint(1, 500),
    )
    return QuestionAnswer(question, UNKNOWN_ANSWER, UNKNOWN_ANSWER)


def stories(rng: random.Random) -> QuestionAnswer:
    """Stories of three lengths."""
    hero, length = rng.choice(HEROES), rng.choice(LENGTHS)
    text = story(hero, length)
    return QuestionAnswer(story_question(rng, hero, length), text, text)


# family: its weight in the mixture
FAMILIES: dict[Family, float] = {
    capitals: 4.0, sums: 5.0, larger: 1.5, colours: 1.0, opposites: 1.2, animals: 1.2, calendar: 1.5,
    spelling: 1.5, counting: 1.0, copying: 3.0, reading: 4.5, as_json: 1.5, greetings: 1.0, unknown: 1.0,
    stories: 0.8,
}  # fmt: skip
