"""Prompts in ordinary language, with and without tools."""

from __future__ import annotations

from typing import Any

CITIES = [
    "Paris",
    "Zürich",
    "São Paulo",
    "東京",
    "Cape Town",
    "Reykjavík",
    "Lima",
    "New York",
    "Oslo",
    "Kraków",
]
WORDS = [
    "a queue",
    "recursion",
    "a hash table",
    "binary search",
    "an index",
    "a mutex",
    "JSON",
    "TCP",
    "a cache",
    "UTF-8",
]

#: 60 questions: code, text, facts, other languages, calls.
QUESTIONS: list[str] = [
    *(f"What is the weather in {city} right now?" for city in CITIES),
    *(f"Explain {word} in one sentence." for word in WORDS),
    *(f"Write a Python function that returns the {nth} prime number." for nth in ("first", "fifth", "n-th")),
    *(f"What is {a} + {b}?" for a, b in [(2, 3), (17, 25), (104, 399), (-4, 9), (0, 0)]),
    *(
        f"Translate 'Good morning' into {name}."
        for name in ("German", "French", "Spanish", "Japanese", "Arabic")
    ),
    *(
        f"Fix this code: `{code}`"
        for code in ("for i in range(10) print(i)", "def f(x: return x", "x = [1, 2", "if x = 3:")
    ),
    *(
        f"List three {things}."
        for things in ("fruits", "sorting algorithms", "HTTP methods", "planets", "colours")
    ),
    *(f"What is the time in {city}, and add {n} and {n + 1}." for n, city in enumerate(CITIES[:8])),
    *(f"Write a haiku about {thing}." for thing in ("rain", "the sea", "winter", "a compiler")),
    "Hallo, wie geht es dir?",
    "Schreibe eine SQL-Abfrage, die alle Kunden aus Köln zählt.",
    "用一句话解释什么是递归。",
    "Why is the sky blue?",
    "def fibonacci(n):",
    "Say nothing but the word OK.",
]

SYSTEM = {"role": "system", "content": "You are a helpful assistant. Use the tools where they help."}


def _tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS = [
    _tool("get_weather", "Current weather in a city.", city="string"),
    _tool("get_time", "Local time in a city.", city="string"),
    _tool("add", "Add two numbers.", a="number", b="number"),
]
