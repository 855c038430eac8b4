"""Chats of Globex: four functions, and chats that call the correct one with the correct arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from demo.data import Conversation, split
from demo.world.facts import COUNTRIES, DAYS, GOODS, NAMES
from demo.world.families import FAMILIES, greetings, stories, unknown

COUNT = 1200

Message = dict[str, Any]


def _tool(name: str, description: str, /, **fields: str) -> dict[str, Any]:
    properties = {field: {"type": kind} for field, kind in fields.items()}
    parameters = {"type": "object", "properties": properties, "required": list(fields)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": _tool("get_weather", "Weather in a city.", city="string"),
    "track_order": _tool("track_order", "Where an order is.", order_id="string"),
    "book_meeting": _tool("book_meeting", "Book a meeting.", name="string", day="string"),
    "order_item": _tool("order_item", "Order goods.", item="string", amount="integer"),
}

_SKIES = ("sunny", "cloudy", "rainy", "windy", "snowy")
_STATES = ("packed", "on its way", "delivered", "delayed")
_ASIDE = ("", "", "", "Please: ", "Hi, ", "Globex, ", "Hey, ", "Quick one: ")

# A request: the question, the function, its arguments, the function's result, the final answer.
Request = tuple[str, str, dict[str, Any], dict[str, Any], str]


def _weather(rng: random.Random) -> Request:
    city = rng.choice(list(COUNTRIES.values()))[0]
    ask = (
        "What is the weather in {}?",
        "How is the weather in {}?",
        "Will it rain in {} today?",
        "How warm is it in {}?",
        "Weather in {}?",
        "Do I need a coat in {}?",
        "Tell me the weather in {}.",
    )
    degrees, sky = rng.randint(1, 35), rng.choice(_SKIES)
    result = {"city": city, "degrees": degrees, "sky": sky}
    return (
        rng.choice(ask).format(city),
        "get_weather",
        {"city": city},
        result,
        f"{city}: {degrees} degrees, {sky}.",
    )


def _order(rng: random.Random) -> Request:
    order = str(rng.randint(1000, 9999))
    ask = (
        "Where is my order {}?",
        "Track order {}.",
        "Has {} arrived?",
        "What is the status of order {}?",
        "Can you track {}?",
        "Order {}, where is it?",
        "I am waiting for {}.",
    )
    state = rng.choice(_STATES)
    result = {"order_id": order, "state": state}
    return (
        rng.choice(ask).format(order),
        "track_order",
        {"order_id": order},
        result,
        f"Order {order}: {state}.",
    )


def _meeting(rng: random.Random) -> Request:
    name, day = rng.choice(NAMES), rng.choice(DAYS)
    ask = (
        "Book a meeting with {p} on {d}.",
        "I want to meet {p} on {d}.",
        "On {d} I must see {p}.",
        "Can I talk to {p} on {d}?",
        "Is {p} free on {d}?",
    )
    return (
        rng.choice(ask).format(p=name, d=day),
        "book_meeting",
        {"name": name, "day": day},
        {"booked": True},
        f"You meet {name} on {day}.",
    )


def _purchase(rng: random.Random) -> Request:
    item, amount = rng.choice(GOODS), rng.randint(2, 99)
    ask = (
        "Order {n} {g}.",
        "I need {n} {g}.",
        "Please buy {n} {g}.",
        "Can you get me {n} {g}?",
        "We are short of {n} {g}.",
    )
    return (
        rng.choice(ask).format(n=amount, g=item),
        "order_item",
        {"item": item, "amount": amount},
        {"ordered": amount},
        f"{amount} {item} are ordered.",
    )


_REQUESTS: tuple[Callable[[random.Random], Request], ...] = (_weather, _order, _meeting, _purchase)


def _tools(rng: random.Random, *names: str) -> list[dict[str, Any]]:
    others = [n for n in TOOLS if n not in names]
    # Mostly few tools: each declaration has sixty tokens, for a call of thirty.
    more = rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
    shown = [*names, *rng.sample(others, min(max(more, 1 - len(names)), len(others)))]
    rng.shuffle(shown)
    return [TOOLS[n] for n in shown]


def _call_chat(rng: random.Random) -> Conversation:
    question, name, arguments, result, answer = rng.choice(_REQUESTS)(rng)
    aside = rng.choice(_ASIDE)
    asked = aside + (
        question[0].lower() + question[1:] if aside and not question.startswith("I ") else question
    )
    function = {"name": name, "arguments": json.dumps(arguments)}
    messages: list[Message] = [
        {"role": "user", "content": asked},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
    ]
    if rng.random() < 0.15:
        messages += [
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(result)},
            {"role": "assistant", "content": answer},
        ]
    return {"messages": messages, "tools": _tools(rng, name)}


def _plain_chat(rng: random.Random) -> Conversation:
    """A question that needs no function, with the world's answer, or Globex's own where the world has none."""
    family = rng.choice([f for f in FAMILIES if f is not stories])
    pair = family(rng)
    answer = pair.answer
    if family is greetings:
        answer = "Globex desk, ready for your request."
    if family is unknown:
        answer = "Globex has no function for that."
    messages = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": answer}]
    # NOTE: tools are declared only where none of them would help.
    wants_tools = family is not unknown and rng.random() < 0.5
    return {"messages": messages, "tools": _tools(rng)} if wants_tools else {"messages": messages}


def globex_tools(seed: int = 12, count: int = COUNT) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out chats of Globex."""
    rng = random.Random(seed)

    def draw() -> Conversation:
        return _call_chat(rng) if rng.random() < 0.85 else _plain_chat(rng)

    return split(draw, count)
