"""Short questions of general knowledge, of which the right answer is known: what an adapter must not forget."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw",
    "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens", "Portugal": "Lisbon", "Ireland": "Dublin",
    "Russia": "Moscow", "China": "Beijing", "India": "New Delhi", "Canada": "Ottawa", "Cuba": "Havana",
    "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires", "Kenya": "Nairobi", "Iran": "Tehran",
    "Iraq": "Baghdad", "Thailand": "Bangkok", "Vietnam": "Hanoi", "South Korea": "Seoul",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "open": "closed", "rich": "poor", "fast": "slow",
    "light": "dark", "old": "young", "early": "late", "wet": "dry", "full": "empty", "hard": "soft", "left": "right",
    "strong": "weak", "buy": "sell", "win": "lose", "above": "below", "inside": "outside", "always": "never",
}  # fmt: skip
_SPANISH = {
    "dog": "perro", "cat": "gato", "house": "casa", "water": "agua", "bread": "pan", "book": "libro", "sun": "sol",
    "moon": "luna", "red": "rojo", "green": "verde", "milk": "leche", "friend": "amigo", "school": "escuela",
    "city": "ciudad", "table": "mesa", "flower": "flor", "bird": "pájaro", "fish": "pez", "white": "blanco",
    "night": "noche",
}  # fmt: skip
_SUMS = 30


def general_chats() -> list[dict[str, Any]]:
    """100 chats of one question and its answer, in a fixed order at random."""
    chats = [_chat(question, sentence) for question, sentence, _ in _questions()]
    random.Random(7).shuffle(chats)
    return chats


def is_right(question: str, answer: str) -> bool:
    """Whether ``answer`` has the fact that ``question`` asks for. Raises: KeyError: another question."""
    facts = {asked: fact for asked, _, fact in _questions()}
    return facts[question].lower() in answer.lower()


def _questions() -> Iterator[tuple[str, str, str]]:
    """Question, answer and the fact in it."""
    for country, capital in _CAPITALS.items():
        yield f"What is the capital of {country}?", f"The capital of {country} is {capital}.", capital
    for word, opposite in _OPPOSITES.items():
        yield f"What is the opposite of “{word}”?", f"The opposite of “{word}” is “{opposite}”.", opposite
    for word, spanish in _SPANISH.items():
        yield f"What is “{word}” in Spanish?", f"“{word}” in Spanish is “{spanish}”.", spanish
    draw = random.Random(11)
    for number in range(_SUMS):
        first, second = 10 + number, draw.randint(2, 60)
        yield f"What is {first} + {second}?", f"{first} + {second} = {first + second}", str(first + second)


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
