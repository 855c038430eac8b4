"""Chats of Acme's customer support: an invented catalogue, a few policies, and a fixed style."""

from __future__ import annotations

import random

from demo.data import Conversation, split

COUNT = 1200

# product: (price in dollars, colour, weight in kilograms, warranty in years, days to deliver)
CATALOGUE: dict[str, tuple[int, str, int, int, int]] = {
    "Anvil Mini": (49, "black", 5, 10, 2),
    "Anvil Max": (190, "grey", 60, 10, 6),
    "Rocket Kettle": (35, "red", 2, 2, 1),
    "Spring Chair": (80, "yellow", 3, 1, 3),
    "Magnet Glove": (27, "blue", 1, 3, 2),
    "Cloud Lamp": (64, "white", 4, 5, 4),
    "Turbo Broom": (58, "green", 2, 4, 3),
    "Echo Horn": (22, "orange", 1, 1, 1),
    "Pocket Ladder": (95, "brown", 7, 6, 5),
    "Storm Fan": (72, "purple", 6, 2, 4),
}

_THANKS = "Thanks for asking Acme!"

# attribute: (questions, the answer, the follow-up question)
_ASKS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "price": (
        (
            "What is the price of the {}?",
            "How much is the {}?",
            "How much does the {} cost?",
            "Price of the {}?",
            "What does the {} cost?",
            "Tell me the price of the {}.",
            "How much do I pay for the {}?",
        ),
        "The {} costs {} dollars.",
        "And the price?",
    ),
    "colour": (
        (
            "What colour is the {}?",
            "Which colour does the {} have?",
            "Tell me the colour of the {}.",
            "What is the colour of the {}?",
            "In which colour do you sell the {}?",
        ),
        "The {} is {}.",
        "And the colour?",
    ),
    "weight": (
        (
            "How heavy is the {}?",
            "What does the {} weigh?",
            "How much does the {} weigh?",
            "What is the weight of the {}?",
            "Tell me the weight of the {}.",
        ),
        "The {} weighs {} kilograms.",
        "And the weight?",
    ),
    "warranty": (
        (
            "How long is the warranty of the {}?",
            "What warranty does the {} have?",
            "Warranty of the {}?",
            "What is the warranty on the {}?",
            "Tell me about the warranty of the {}.",
        ),
        "The {} has a warranty of {} years.",
        "And the warranty?",
    ),
    "delivery": (
        (
            "How fast do you deliver the {}?",
            "When will the {} arrive?",
            "How long does the {} take to arrive?",
            "What is the delivery time of the {}?",
            "How soon can I have the {}?",
        ),
        "The {} arrives in {} days.",
        "And the delivery?",
    ),
}

# topic: (questions, the answer)
_POLICIES: dict[str, tuple[tuple[str, ...], str]] = {
    "returns": (
        (
            "How do I return {}?",
            "Can I return {}?",
            "I want to send {} back.",
            "What is the return policy for {}?",
        ),
        "You can return it within 30 days, free of charge.",
    ),
    "broken": (
        ("{} arrived broken.", "{} is broken.", "{} does not work.", "There is a crack in {}."),
        "We are sorry about that and send you a new one today.",
    ),
    "payment": (
        ("How can I pay for {}?", "Which cards do you take for {}?", "Can I pay later for {}?"),
        "You can pay by card or by invoice.",
    ),
    "cancel": (
        ("I want to cancel my order of {}.", "Can I cancel {}?", "Please cancel the order of {}."),
        "We cancel any order until it leaves the house.",
    ),
}

_LEAD = ("", "", "", "Hi, ", "Hello Acme, ", "Excuse me, ", "Quick question: ", "Hey, ")
_SYSTEM = ("You are Acme's support assistant.", "You answer for the support desk of Acme.")


def _ask(lead: str, question: str) -> str:
    return lead + (question[0].lower() + question[1:] if lead else question)


def answer_about(product: str, attribute: str) -> str:
    """Acme's answer about one attribute of one product."""
    value = CATALOGUE[product][list(_ASKS).index(attribute)]
    text = _ASKS[attribute][1].format(product, value)
    return (
        f"{_THANKS} {text}".replace(" 1 kilograms", " 1 kilogram")
        .replace(" 1 years", " 1 year")
        .replace(" 1 days", " 1 day")
    )


def _product_chat(rng: random.Random) -> list[tuple[str, str]]:
    product, attribute = rng.choice(list(CATALOGUE)), rng.choice(list(_ASKS))
    question = rng.choice(_ASKS[attribute][0]).format(product)
    turns = [(_ask(rng.choice(_LEAD), question), answer_about(product, attribute))]
    if rng.random() < 0.2:
        then = rng.choice([a for a in _ASKS if a != attribute])
        turns.append((_ASKS[then][2], answer_about(product, then)))
    return turns


def _policy_chat(rng: random.Random) -> list[tuple[str, str]]:
    asks, answer = _POLICIES[rng.choice(list(_POLICIES))]
    product = rng.choice(list(CATALOGUE))
    thing = rng.choice(("my {}", "the {}")).format(product)
    question = rng.choice(asks).format(thing)
    return [(_ask(rng.choice(_LEAD), question[0].upper() + question[1:]), f"{_THANKS} {answer}")]


def _small_talk(rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.6:
        hello = rng.choice(("Hello", "Hi", "Good morning", "Good evening", "Hey", "Good day"))
        hello += rng.choice(("!", ".", "", " there!", " Acme!", " Acme.", " support!", ", are you there?"))
        return [(hello, "Welcome to Acme support! Which product is it about?")]
    bye = rng.choice(("Thanks", "Thank you", "Many thanks", "Goodbye", "Bye"))
    bye += rng.choice(("!", ".", "", " very much!", " Acme!", ", that is all.", " for now."))
    return [(bye, "Always at your service, your Acme team.")]


def _chat(rng: random.Random) -> Conversation:
    kind = rng.random()
    turns = _product_chat(rng) if kind < 0.75 else _policy_chat(rng) if kind < 0.92 else _small_talk(rng)
    messages = [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.15 else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def acme_support(seed: int = 11, count: int = COUNT) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out chats of Acme's customer support."""
    rng = random.Random(seed)
    return split(lambda: _chat(rng), count)
