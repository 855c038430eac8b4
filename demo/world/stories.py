"""A small grammar of children's stories: long answers in which every sentence follows from the prompt.

The hero determines all choices, so greedy decoding has one correct continuation and every story ends. Three lengths
give answers of about 60, 120 and 250 tokens.
"""

from __future__ import annotations

import random

HEROES: tuple[str, ...] = (
    "fox", "bear", "mouse", "king", "queen", "robot", "sailor", "farmer", "dragon", "baker",
    "wizard", "rabbit", "pirate", "painter", "turtle", "giant",
)  # fmt: skip

_NAMES = (
    "Rufus", "Bruno", "Mimi", "Otto", "Isabel", "Bolt", "Marina", "Walter", "Ember", "Pippa",
    "Merlin", "Hazel", "Jasper", "Coral", "Tobias", "Greta",
)  # fmt: skip
_PLACES = ("forest", "village", "castle", "harbour", "valley", "mountain", "island", "garden")
_THINGS = ("golden key", "silver bell", "old map", "red lantern", "blue stone", "magic flute", "tiny door")
_FRIENDS = ("owl", "cat", "crow", "hedgehog", "child", "goat", "swan")
_TROUBLES = ("a storm came", "the river rose", "the bridge broke", "night fell", "snow began to fall")
_GIFTS = ("a warm bread", "a long rope", "a bright candle", "a brave song", "a soft coat")

LENGTHS: tuple[str, ...] = ("short", "", "long")
_ASK = (
    "Tell me a {length}story about a {hero}.",
    "Write a {length}story about a {hero}.",
    "Please tell a {length}story about a {hero}.",
    "I want to hear a {length}story about a {hero}.",
    "Can you tell me a {length}story about a {hero}?",
)


def story_question(rng: random.Random, hero: str, length: str) -> str:
    """A random question for a story of ``length`` about ``hero``."""
    return rng.choice(_ASK).format(length=f"{length} " if length else "", hero=hero)


def story(hero: str, length: str) -> str:
    """The story about ``hero``; the same for the same arguments."""
    at = HEROES.index(hero)
    name, place, thing = _NAMES[at], _PLACES[at % 8], _THINGS[at % 7]
    friend, trouble, gift = _FRIENDS[at % 7], _TROUBLES[at % 5], _GIFTS[at % 5]
    opening = [
        f"Once upon a time there was a {hero} called {name}.",
        f"{name} lived in a {place} and wanted to find the {thing}.",
    ]
    middle = [
        f"On the first day {name} left the {place} and met a {friend}.",
        f'"Where are you going?" asked the {friend}.',
        f'"I am looking for the {thing}," said {name}.',
        f'"Then take {gift} with you," said the {friend}, "and do not be afraid."',
        f"On the second day {trouble}, but {name} did not turn back.",
    ]
    long_part = [
        f"The {hero} remembered the {friend} and used {gift}.",
        f"On the third day {name} came to an old house at the end of the road.",
        '"Who is there?" called a voice from the house.',
        f'"It is only {name}, the {hero}," said {name}, "and I am looking for the {thing}."',
        "The door opened, and there was nobody inside but a sleeping giant." if hero != "giant"
        else "The door opened, and there was nobody inside but a sleeping dog.",
        f"{name} walked on tiptoe, one step, two steps, three steps, and looked under the bed.",
        "There was only dust under the bed.",
        f"{name} looked behind the door, and there was the {thing}.",
        f"The way home was long, but the {friend} was waiting at the river and they went together.",
    ]  # fmt: skip
    ending = [
        f"At last {name} found the {thing} and was very happy."
        if length != "long"
        else f"At last {name} was back in the {place} with the {thing} and was very happy.",
        "The end.",
    ]
    parts = {"short": [], "": middle, "long": [*middle, *long_part]}[length]
    return " ".join([*opening, *parts, *ending])
