"""Questions of the closed world: their record and their templates, in which ``{}`` stands for the subject."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """One question with its full answer and its shortest form (the answer to "be brief")."""

    question: str
    answer: str
    short: str


Family = Callable[[random.Random], QuestionAnswer]

ASKS: dict[str, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "Tell me the capital of {}.",
        "Do you know the capital of {}?",
        "capital of {}",
        "What's the capital city of {}?",
    ),
    "country": (
        "{} is the capital of which country?",
        "Which country has the capital {}?",
        "What country is {} the capital of?",
        "Of which country is {} the capital?",
    ),
    "continent": (
        "On which continent is {}?",
        "Which continent is {} on?",
        "Where in the world is {}?",
        "What continent does {} belong to?",
    ),
    "plus": (
        "What is {} plus {}?",
        "How much is {} + {}?",
        "Add {} and {}.",
        "{} + {}",
        "{} plus {}?",
        "Calculate {} + {}.",
        "What do you get when you add {} and {}?",
    ),
    "minus": (
        "What is {} minus {}?",
        "How much is {} - {}?",
        "{} - {}",
        "Calculate {} - {}.",
        "{} minus {}?",
    ),
    "larger": (
        "Which is larger, {} or {}?",
        "Which number is bigger, {} or {}?",
        "What is more, {} or {}?",
        "Is {} or {} the larger number?",
    ),
    "colour": (
        "What colour is {}?",
        "Which colour does {} have?",
        "Tell me the colour of {}.",
        "What is the colour of {}?",
        "Say what colour {} is.",
        "Do you know what colour {} is?",
    ),
    "opposite": (
        "What is the opposite of {}?",
        "Give me the opposite of {}.",
        "Which word is the opposite of {}?",
        "opposite of {}",
        "What word means the opposite of {}?",
    ),
    "sound": (
        "What sound does {} make?",
        "Which sound does {} make?",
        "What does {} do when it calls?",
        "Tell me what sound {} makes.",
    ),
    "young": (
        "What is the young of {} called?",
        "What do you call the young of {}?",
        "How is the young of {} called?",
        "Name the young of {}.",
    ),
    "legs": (
        "How many legs does {} have?",
        "Tell me how many legs {} has.",
        "On how many legs does {} walk?",
    ),
    "next day": (
        "Which day comes {} {}?",
        "What day comes {} {}?",
        "Tell me the day {} {}.",
        "What is the day {} {}?",
    ),
    "next month": (
        "Which month comes {} {}?",
        "What month comes {} {}?",
        "Tell me the month {} {}.",
    ),
    "month length": (
        "How many days does {} have?",
        "How long is {}?",
        "Tell me how many days {} has.",
        "How many days are in {}?",
    ),
    "nth month": (
        "Which month is the {} of the year?",
        "What is the {} month of the year?",
        "Name the {} month.",
    ),
    "spell": (
        "Spell {}.",
        "Spell the word {}.",
        "How do you spell {}?",
        "Please spell {}.",
        "Can you spell {} for me?",
    ),
    "capitals": (
        "Write {} in capital letters.",
        "Put {} in capital letters.",
        "{} in capitals, please.",
        "Say {} in capital letters.",
    ),
    "count up": (
        "Count from {} to {}.",
        "Please count from {} to {}.",
        "Can you count from {} to {}?",
        "Count up from {} to {}.",
    ),
    "count down": (
        "Count down from {} to {}.",
        "Please count down from {} to {}.",
        "Count backwards from {} to {}.",
    ),
    "copy": (
        "Repeat after me: {}",
        "Say this: {}",
        "Write exactly this: {}",
        "Please repeat: {}",
        'Say "{}"',
        "Echo: {}",
    ),
    "code": (
        "What is the code of {}?",
        "Which code does {} have?",
        "Tell me the code of {}.",
    ),
    "json": (
        "Write as JSON: {}",
        "Turn this into JSON: {}",
        "Give me JSON for {}",
        "As JSON, please: {}",
    ),
    "who": ("who are you?", "what are you?", "what is your name?", "what model are you?"),
    "what for": ("what can you do?", "how can you help me?", "what do you know?"),
}


def ask(rng: random.Random, what: str, *about: object) -> str:
    """A random question of the kind ``what``."""
    return rng.choice(ASKS[what]).format(*about)
