"""Writes the data of a first customer: 300 support chats, 300 chats with function calls, and held-out ones of both.

    python -m benchmarks.real.journey_data OUT

writes support.jsonl, calls.jsonl, each with -held-out, general-held-out.jsonl (questions of general knowledge), and
replay.jsonl (other such questions, and support chats), which is mixed into the training on calls.

Five functions, parallel calls, results and answers over several turns, missing values that are asked for, and
requests that no function serves. Everything is drawn with a fixed seed; held-out chats have other values.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.real.general_questions import general_chats

TRAINED, HELD_OUT = 300, 60
GENERAL_HELD_OUT, REPLAYED_SUPPORT = 50, 50
CITIES = (
    "Quito",
    "Oslo",
    "Lima",
    "Accra",
    "Turin",
    "Osaka",
    "Perth",
    "Bergen",
    "Cusco",
    "Ghent",
    "Tunis",
    "Malmo",
)
ITEMS = ("kettle", "lamp", "backpack", "headset", "tripod", "blender", "keyboard", "tent", "mug", "router")
Chat = dict[str, Any]


def _tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_TEXT = {"type": "string"}
TOOLS = [
    _tool("get_order", "State of an order", order_id=_TEXT),
    _tool("cancel_order", "Cancel an order that has not been shipped", order_id=_TEXT, reason=_TEXT),
    _tool("get_stock", "Number of pieces of an article in a city's shop", article=_TEXT, city=_TEXT),
    _tool("opening_hours", "Opening hours of a city's shop", city=_TEXT),
    _tool(
        "create_ticket", "Open a ticket for the support team", subject=_TEXT,
        priority={"type": "string", "enum": ["low", "normal", "high"]},
    ),
]  # fmt: skip


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _calls(*calls: tuple[str, dict[str, str]]) -> dict[str, Any]:
    made = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for n, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def _result(number: int, **values: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": json.dumps(values)}


def _order(draw: random.Random) -> Chat:
    number = f"{draw.choice('ABCDEF')}-{draw.randrange(10000, 99999)}"
    question = draw.choice(
        ["Where is order {}?", "Has my order {} left yet?", "Status of {} please."]
    ).format(number)
    days = draw.randint(1, 6)
    messages = [_user(question), _calls(("get_order", {"order_id": number}))]
    messages += [
        _result(0, state="shipped", days=days),
        _says(f"Order {number} is shipped and arrives in {days} days."),
    ]
    return {"messages": messages, "tools": TOOLS}


def _cancel(draw: random.Random) -> Chat:
    number = f"{draw.choice('ABCDEF')}-{draw.randrange(10000, 99999)}"
    reason = draw.choice(["too late", "wrong size", "bought elsewhere", "changed my mind"])
    asked = [
        _user("Please cancel my order."),
        _says("Gladly. Which order, and why?"),
        _user(f"{number}, {reason}."),
    ]
    messages = [*asked, _calls(("cancel_order", {"order_id": number, "reason": reason}))]
    return {"messages": messages, "tools": TOOLS}


def _two_cities(draw: random.Random) -> Chat:
    article, (one, other) = draw.choice(ITEMS), draw.sample(CITIES, 2)
    question = draw.choice(["Is the {} in stock in {} or {}?", "How many of the {} do {} and {} have?"])
    calls = [("get_stock", {"article": article, "city": city}) for city in (one, other)]
    first, second = draw.randint(0, 9), draw.randint(0, 9)
    results = [_result(0, pieces=first), _result(1, pieces=second)]
    answer = _says(f"{one} has {first}, {other} has {second}.")
    messages = [_user(question.format(article, one, other)), _calls(*calls), *results, answer]
    return {"messages": messages, "tools": TOOLS}


def _hours(draw: random.Random) -> Chat:
    city = draw.choice(CITIES)
    day = draw.choice(["Monday", "Tuesday", "Friday", "Saturday", "Sunday", "Easter Monday"])
    question = draw.choice(
        ["When does the shop in {} open on {}?", "Opening hours in {} on {}?", "Is {} open on {}?"]
    )
    return {
        "messages": [_user(question.format(city, day)), _calls(("opening_hours", {"city": city}))],
        "tools": TOOLS,
    }


def _ticket(draw: random.Random) -> Chat:
    item, priority = draw.choice(ITEMS), draw.choice(["low", "normal", "high"])
    question = f"My {item} number {draw.randrange(1000)} is broken. Open a ticket with {priority} priority."
    call = ("create_ticket", {"subject": f"broken {item}", "priority": priority})
    return {"messages": [_user(question), _calls(call)], "tools": TOOLS}


def _no_function(draw: random.Random) -> Chat:
    wish = draw.choice(["write a poem about", "tell me the history of", "translate into Latin:", "draw"])
    messages = [_user(f"Please {wish} a {draw.choice(ITEMS)} from {draw.choice(CITIES)}.")]
    messages.append(_says("I can help with orders, stock, opening hours and tickets only."))
    return {"messages": messages, "tools": TOOLS}


def _support(draw: random.Random) -> Chat:
    item, city = draw.choice(ITEMS), draw.choice(CITIES)
    topics = {
        f"How do I return a {item} that I bought in {city}?":
            f"Bring the {item} to any shop within 30 days, with its receipt. Happy to help further. – Acme",
        f"Does the {item} have a warranty in {city}?":
            f"Yes: the {item} has two years, in {city} and everywhere else. Happy to help further. – Acme",
        f"Can you deliver a {item} to {city} tomorrow?":
            f"A {item} to {city} takes two days. Happy to help further. – Acme",
        f"My {item} arrived in {city} with a scratch.":
            f"I am sorry about the scratch. Keep the {item}; a new one leaves today. Happy to help further. – Acme",
    }  # fmt: skip
    question, answer = draw.choice(list(topics.items()))
    return {"messages": [_user(question), _says(answer)]}


def different(
    make: Callable[[random.Random], Chat], count: int, seen: set[str], draw: random.Random
) -> list[Chat]:
    """``count`` chats whose first questions are not in ``seen``, to which they are added."""
    found: list[Chat] = []
    while len(found) < count:
        chat = make(draw)
        question = "".join(m["content"] for m in chat["messages"] if m["role"] == "user")
        if question not in seen:
            seen.add(question)
            found.append(chat)
    return found


def main(out: Path) -> None:
    """Write the six files into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    draw, seen = random.Random(15), set[str]()
    kinds = (_order, _cancel, _two_cities, _hours, _ticket, _no_function)
    written: dict[str, list[Chat]] = {}
    for name, makers in (("support", (_support,)), ("calls", kinds)):
        for suffix, count in (("", TRAINED), ("-held-out", HELD_OUT)):
            chats = []
            for make in makers:
                chats += different(make, count // len(makers), seen, draw)
            draw.shuffle(chats)
            written[f"{name}{suffix}"] = chats
    general = general_chats()
    written["general-held-out"] = general[:GENERAL_HELD_OUT]
    written["replay"] = [*general[GENERAL_HELD_OUT:], *written["support"][:REPLAYED_SUPPORT]]
    for name, chats in written.items():
        lines = "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
