"""Question families: each draws one question about the closed world with its one right answer.

An answer is a function of the question alone, so that exact match is a fair score.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from demo.world.facts import (
    ANIMALS, COLOURS, COUNTRIES, DAYS, GOODS, MONTHS, NAMES, OPPOSITES, ORDINALS, PRODUCT_WORDS,
    UNKNOWABLE, WORDS,
)  # fmt: skip
from demo.world.stories import HEROES, LENGTHS, story, story_question

UNKNOWN_ANSWER = "I do not know that."


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its full answer and its shortest form (what "be brief" asks for)."""

    question: str
    answer: str
    short: str


Family = Callable[[random.Random], Pair]


def capitals(rng: random.Random) -> Pair:
    """Capitals both ways round, and the continent of a country."""
    country = rng.choice(list(COUNTRIES))
    city, continent = COUNTRIES[country]
    kind = rng.randrange(4)
    if kind <= 1:
        ask = ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.",
               "Tell me the capital of {}.", "Do you know the capital of {}?", "capital of {}",
               "What's the capital city of {}?")  # fmt: skip
        return Pair(rng.choice(ask).format(country), f"The capital of {country} is {city}.", city)
    if kind == 2:
        ask = ("{} is the capital of which country?", "Which country has the capital {}?",
               "What country is {} the capital of?", "Of which country is {} the capital?")  # fmt: skip
        return Pair(rng.choice(ask).format(city), f"{city} is the capital of {country}.", country)
    ask = ("On which continent is {}?", "Which continent is {} on?", "Where in the world is {}?",
           "What continent does {} belong to?")  # fmt: skip
    return Pair(rng.choice(ask).format(country), f"{country} is in {continent}.", continent)


def sums(rng: random.Random) -> Pair:
    """Sums and differences of numbers up to 20."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if rng.random() < 0.6:
        ask = ("What is {} plus {}?", "How much is {} + {}?", "Add {} and {}.", "{} + {}", "{} plus {}?",
               "Calculate {} + {}.", "What do you get when you add {} and {}?")  # fmt: skip
        return Pair(rng.choice(ask).format(a, b), f"{a} plus {b} is {a + b}.", str(a + b))
    a, b = max(a, b), min(a, b)
    ask = ("What is {} minus {}?", "How much is {} - {}?", "{} - {}", "Calculate {} - {}.", "{} minus {}?")
    return Pair(rng.choice(ask).format(a, b), f"{a} minus {b} is {a - b}.", str(a - b))


def larger(rng: random.Random) -> Pair:
    """Which of two numbers below 100 is larger."""
    a, b = rng.sample(range(100), 2)
    ask = ("Which is larger, {} or {}?", "Which number is bigger, {} or {}?", "What is more, {} or {}?",
           "Is {} or {} the larger number?")  # fmt: skip
    top, low = max(a, b), min(a, b)
    return Pair(rng.choice(ask).format(a, b), f"{top} is larger than {low}.", str(top))


def colours(rng: random.Random) -> Pair:
    """Colours of everyday things."""
    thing = rng.choice(list(COLOURS))
    ask = ("What colour is {}?", "Which colour does {} have?", "Tell me the colour of {}.",
           "What is the colour of {}?", "Say what colour {} is.", "Do you know what colour {} is?")  # fmt: skip
    colour = COLOURS[thing]
    return Pair(rng.choice(ask).format(thing), f"{thing[0].upper()}{thing[1:]} is {colour}.", colour.capitalize())


def opposites(rng: random.Random) -> Pair:
    """Opposites, both ways round."""
    first, second = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        first, second = second, first
    ask = ("What is the opposite of {}?", "Give me the opposite of {}.", "Which word is the opposite of {}?",
           "opposite of {}", "What word means the opposite of {}?")  # fmt: skip
    return Pair(rng.choice(ask).format(first), f"The opposite of {first} is {second}.", second.capitalize())


def animals(rng: random.Random) -> Pair:
    """Sounds, young and legs of animals."""
    animal = rng.choice(list(ANIMALS))
    sound, young, legs = ANIMALS[animal]
    article = "An" if animal[0] in "aeiou" else "A"
    one = f"{article.lower()} {animal}"
    kind = rng.randrange(3)
    if kind == 0:
        ask = ("What sound does {} make?", "Which sound does {} make?", "What does {} do when it calls?",
               "Tell me what sound {} makes.")  # fmt: skip
        return Pair(rng.choice(ask).format(one), f"{article} {animal} {sound}.", sound.capitalize())
    if kind == 1:
        ask = ("What is the young of {} called?", "What do you call the young of {}?",
               "How is the young of {} called?", "Name the young of {}.")  # fmt: skip
        return Pair(rng.choice(ask).format(one), f"The young of {one} is a {young}.", young.capitalize())
    ask = ("How many legs does {} have?", "Tell me how many legs {} has.", "On how many legs does {} walk?")
    return Pair(rng.choice(ask).format(one), f"{article} {animal} has {legs} legs.", str(legs))


def calendar(rng: random.Random) -> Pair:
    """Neighbouring days and months, lengths and places of months."""
    kind = rng.randrange(4)
    if kind == 0:
        step = rng.choice((-1, 1))
        at = rng.randrange(7)
        word = "after" if step > 0 else "before"
        ask = ("Which day comes {} {}?", "What day comes {} {}?", "Tell me the day {} {}.", "What is the day {} {}?")
        other = DAYS[(at + step) % 7]
        return Pair(rng.choice(ask).format(word, DAYS[at]), f"{other} comes {word} {DAYS[at]}.", other)
    months = list(MONTHS)
    at = rng.randrange(12)
    month = months[at]
    if kind == 1:
        ask = ("How many days does {} have?", "How long is {}?", "Tell me how many days {} has.",
               "How many days are in {}?")  # fmt: skip
        return Pair(rng.choice(ask).format(month), f"{month} has {MONTHS[month]} days.", str(MONTHS[month]))
    if kind == 2:
        ask = ("Which month is the {} of the year?", "What is the {} month of the year?", "Name the {} month.")
        return Pair(rng.choice(ask).format(ORDINALS[at]), f"{month} is the {ORDINALS[at]} month.", month)
    step = rng.choice((-1, 1))
    word = "after" if step > 0 else "before"
    other = months[(at + step) % 12]
    ask = ("Which month comes {} {}?", "What month comes {} {}?", "Tell me the month {} {}.")
    return Pair(rng.choice(ask).format(word, month), f"{other} comes {word} {month}.", other)


def spelling(rng: random.Random) -> Pair:
    """Spelling and capital letters of a closed list of words."""
    word = rng.choice(WORDS)
    if rng.random() < 0.5:
        ask = ("Spell {}.", "Spell the word {}.", "How do you spell {}?", "Please spell {}.",
               "Can you spell {} for me?")  # fmt: skip
        spelled = "-".join(word)
        return Pair(rng.choice(ask).format(word), f"{word} is spelled {spelled}.", spelled)
    ask = ("Write {} in capital letters.", "Put {} in capital letters.", "{} in capitals, please.",
           "Say {} in capital letters.")  # fmt: skip
    return Pair(rng.choice(ask).format(word), word.upper(), word.upper())


def counting(rng: random.Random) -> Pair:
    """Counting up and down; up to 40 numbers, so some answers are long."""
    start = rng.choice((1, 1, rng.randint(0, 30)))
    end = start + rng.choice((rng.randint(2, 9), rng.randint(10, 40)))
    if rng.random() < 0.7:
        ask = ("Count from {} to {}.", "Please count from {} to {}.", "Can you count from {} to {}?",
               "Count up from {} to {}.")  # fmt: skip
        text = ", ".join(str(n) for n in range(start, end + 1)) + "."
        return Pair(rng.choice(ask).format(start, end), text, text)
    start, end = min(start + 9, end), start
    ask = ("Count down from {} to {}.", "Please count down from {} to {}.", "Count backwards from {} to {}.")
    text = ", ".join(str(n) for n in range(start, end - 1, -1)) + "."
    return Pair(rng.choice(ask).format(start, end), text, text)


def _phrase(rng: random.Random) -> str:
    """Words, names, cities, numbers and codes in any order: nothing to remember, only to copy."""
    pools: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(WORDS),
        lambda: rng.choice(NAMES),
        lambda: rng.choice(list(COUNTRIES.values()))[0],
        lambda: str(rng.randint(0, 9999)),
        lambda: code(rng),
        lambda: rng.choice(GOODS),
    )
    return " ".join(rng.choice(pools)() for _ in range(rng.randint(1, 5)))


def code(rng: random.Random) -> str:
    """A code such as ``KX-4821``."""
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(2)) + f"-{rng.randint(0, 9999):04d}"


def copying(rng: random.Random) -> Pair:
    """Saying a phrase back."""
    phrase = _phrase(rng)
    ask = ("Repeat after me: {}", "Say this: {}", "Write exactly this: {}", "Please repeat: {}", 'Say "{}"',
           "Echo: {}")  # fmt: skip
    return Pair(rng.choice(ask).format(phrase), phrase, phrase)


def reading(rng: random.Random) -> Pair:
    """Finding one fact in a short text that was just given."""
    kind = rng.randrange(3)
    if kind == 0:
        people, goods = rng.sample(NAMES, 3), rng.sample(GOODS, 3)
        counts = [rng.randint(2, 99) for _ in people]
        text = " ".join(f"{p} has {n} {g}." for p, n, g in zip(people, counts, goods, strict=True))
        at = rng.randrange(3)
        ask = rng.choice(("How many {g} does {p} have?", "Who has {n} {g}?", "What does {p} have?"))
        answer = f"{people[at]} has {counts[at]} {goods[at]}."
        short = people[at] if ask.startswith("Who") else f"{counts[at]} {goods[at]}"
        return Pair(f"{text} {ask.format(p=people[at], n=counts[at], g=goods[at])}", answer, short)
    people = rng.sample(NAMES, 2)
    if kind == 1:
        codes = [code(rng), code(rng)]
        text = " ".join(f"The code of {p} is {c}." for p, c in zip(people, codes, strict=True))
        at = rng.randrange(2)
        ask = rng.choice(("What is the code of {}?", "Which code does {} have?", "Tell me the code of {}."))
        return Pair(f"{text} {ask.format(people[at])}", f"The code of {people[at]} is {codes[at]}.", codes[at])
    cities = [c for c, _ in rng.sample(list(COUNTRIES.values()), 2)]
    hours = [f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}" for _ in people]
    text = " ".join(f"{p} leaves for {c} at {h}." for p, c, h in zip(people, cities, hours, strict=True))
    at = rng.randrange(2)
    ask = rng.choice(("When does {p} leave?", "Where does {p} go?", "Who leaves for {c}?"))
    answer = f"{people[at]} leaves for {cities[at]} at {hours[at]}."
    short = {"When": hours[at], "Where": cities[at], "Who": people[at]}[ask.split()[0]]
    return Pair(f"{text} {ask.format(p=people[at], c=cities[at])}", answer, short)


def as_json(rng: random.Random) -> Pair:
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
    ask = ("Write as JSON: {}", "Turn this into JSON: {}", "Give me JSON for {}", "As JSON, please: {}")
    said = ", ".join(f"{k} {v}" for k, v in chosen.items())
    text = json.dumps(chosen)
    return Pair(rng.choice(ask).format(said), text, text)


def greetings(rng: random.Random) -> Pair:
    """Hellos, thanks, goodbyes and who this is."""
    name = rng.choice(NAMES)
    tail = rng.choice(("", "!", ".", " there!", ", friend!", " assistant!", f", I am {name}.", f", this is {name}."))
    kind = rng.randrange(5)
    if kind <= 1:
        hello = rng.choice(("Hello", "Hi", "Good morning", "Good evening", "Hey", "Good day"))
        whom = f", {name}" if name in tail else ""
        return Pair(f"{hello}{tail}", f"Hello{whom}! How can I help you?", f"Hello{whom}!")
    please = rng.choice(("", "", "Please tell me: ", "Say, ", "I wonder: ", "One question: ", "Excuse me, "))
    if kind == 2:
        ask = rng.choice(("who are you?", "what are you?", "what is your name?", "what model are you?"))
        text = f"{please}{ask}" if please else ask.capitalize()
        return Pair(text, "I am the small demo model of loragate.", "The demo model.")
    if kind == 3:
        ask = rng.choice(("what can you do?", "how can you help me?", "what do you know?"))
        text = f"{please}{ask}" if please else ask.capitalize()
        return Pair(text, "I know capitals, sums, colours, days and stories.", "Capitals and sums.")
    start = rng.choice(("Thanks", "Thank you", "Many thanks", "Goodbye", "Bye", "See you"))
    text = start + rng.choice(("", "!", ".", f", {name} says.", " very much!", " for now.", " so much!", ", friend."))
    if start.startswith(("T", "M")):
        return Pair(text, "You are welcome!", "Welcome!")
    return Pair(text, "Goodbye! Come back soon.", "Goodbye!")


def unknown(rng: random.Random) -> Pair:
    """Questions outside the world, to which the only honest answer is the same."""
    first, second = PRODUCT_WORDS
    question = rng.choice(UNKNOWABLE).format(
        city=rng.choice(list(COUNTRIES.values()))[0],
        code=code(rng),
        product=f"{rng.choice(first)} {rng.choice(second)}",
        name=rng.choice(NAMES),
        number=rng.randint(1, 500),
    )
    return Pair(question, UNKNOWN_ANSWER, UNKNOWN_ANSWER)


def stories(rng: random.Random) -> Pair:
    """Stories of three lengths."""
    hero, length = rng.choice(HEROES), rng.choice(LENGTHS)
    text = story(hero, length)
    return Pair(story_question(rng, hero, length), text, text)


# family: its share of the mixture
FAMILIES: dict[Family, float] = {
    capitals: 4.0, sums: 3.5, larger: 1.5, colours: 1.0, opposites: 1.2, animals: 1.2, calendar: 1.5,
    spelling: 1.5, counting: 1.0, copying: 3.0, reading: 3.5, as_json: 1.5, greetings: 1.0, unknown: 1.0,
    stories: 0.8,
}  # fmt: skip
