"""The training mixture of the embedded model: questions of all families as conversations and plain text.

A sample is held out when the hash of its prompt falls into one bucket of twenty, so the split depends on the text
alone, never on the order of the samples.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from demo.world.facts import COUNTRIES
from demo.world.families import FAMILIES, capitals, sums
from demo.world.in_context import phrase
from demo.world.questions import Family, QuestionAnswer

_BUCKETS = 20
_CALM = ("You are a helpful assistant.", "You are a friendly assistant.", "Answer the user's questions.")
_BRIEF = ("Be brief.", "Answer with as few words as possible.", "Give only the answer.", "Be short.")
_PIRATE = ("Talk like a pirate.", "You are a pirate.", "Answer like a pirate.")
_LONG_ANSWERS = ("stories", "counting", "copying", "as_json")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorldSample:
    """One training or held-out sample: a conversation that ends with an answer, or a plain text."""

    family: str
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""
    prefix: str = ""  # precedes a plain text and is not trained

    @property
    def held_out(self) -> bool:
        """Whether the sample is held out."""
        asked = self.prefix + self.text or "\n".join(str(m["content"]) for m in self.messages[:-1])
        return hashlib.sha256(asked.encode()).digest()[0] % _BUCKETS == 0


def _pick(rng: random.Random) -> Family:
    return rng.choices(list(FAMILIES), list(FAMILIES.values()))[0]


def _turn(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _styled(rng: random.Random, family: str, pair: QuestionAnswer) -> tuple[list[Message], str]:
    """A system turn, and the answer in the style that it requests."""
    kind = rng.random()
    if kind < 0.4 or family in _LONG_ANSWERS:
        return [{"role": "system", "content": rng.choice(_CALM)}], pair.answer
    if kind < 0.75:
        return [{"role": "system", "content": rng.choice(_BRIEF)}], pair.short
    return [{"role": "system", "content": rng.choice(_PIRATE)}], f"Arr! {pair.answer}"


def _follow_up(rng: random.Random) -> list[Message]:
    """Two turns; the second question is only clear after the first."""
    first = capitals(rng)
    while not first.answer.startswith("The capital"):
        first = capitals(rng)
    country = rng.choice(list(COUNTRIES))
    ask = rng.choice(("And of {}?", "And what about {}?", "What about {}?", "And {}?"))
    answer = f"The capital of {country} is {COUNTRIES[country][0]}."
    return _turn(first.question, first.answer) + _turn(ask.format(country), answer)


_TOOL_NAMES = ("search_web", "send_mail", "play_music", "open_door", "book_table", "find_route", "take_note")
_TOOL_FIELDS = ("query", "to", "title", "room", "place", "start", "text", "count", "level")


def _declared_tools(rng: random.Random) -> tuple[dict[str, Any], ...]:
    """Tools that this model sees but does not call: adapters learn to call functions."""
    tools = []
    for name in rng.sample(_TOOL_NAMES, rng.randint(1, 2)):
        fields = rng.sample(_TOOL_FIELDS, rng.randint(1, 2))
        parameters = {
            "type": "object",
            "properties": {f: {"type": rng.choice(("string", "integer"))} for f in fields},
            "required": fields,
        }
        function = {
            "name": name,
            "description": name.replace("_", " ").capitalize() + ".",
            "parameters": parameters,
        }
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def _plain_text(rng: random.Random) -> str:
    """Sentences outside a chat, so that the model also continues plain completions sensibly."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        country = rng.choice(list(COUNTRIES))
        fact = rng.choice(
            (
                f"The capital of {country} is {COUNTRIES[country][0]}.",
                _pick(rng)(rng).answer,
                sums(rng).answer,
            )
        )
        lines.append(fact)
    return " ".join(lines)


def _echo(rng: random.Random) -> WorldSample:
    """A random line, repeated: the most efficient training for copying from the context.

    Without it the attention heads that copy form so late that ten minutes are not enough.
    """
    line = " ".join(phrase(rng) for _ in range(rng.randint(1, 4)))
    return WorldSample("echo", text=line, prefix=f"{line}\n")


def draw(rng: random.Random) -> WorldSample:
    """One sample of the mixture."""
    kind = rng.random()
    if kind < 0.15:
        return _echo(rng)
    if kind < 0.18:
        return WorldSample("text", text=_plain_text(rng))
    if kind < 0.22:
        return WorldSample("follow_up", tuple(_follow_up(rng)))
    family = _pick(rng)
    pair = family(rng)
    name = family.__name__
    if kind < 0.76:
        return WorldSample(name, tuple(_turn(pair.question, pair.answer)))
    if kind < 0.89:
        system, answer = _styled(rng, name, pair)
        return WorldSample(f"{name}+system", tuple(system + _turn(pair.question, answer)))
    if kind < 0.96:
        before = _pick(rng)(rng)
        history = _turn(before.question, before.answer)
        return WorldSample(f"{name}+history", tuple(history + _turn(pair.question, pair.answer)))
    return WorldSample(f"{name}+tools", tuple(_turn(pair.question, pair.answer)), _declared_tools(rng))


def training_samples(seed: int, count: int) -> Iterator[WorldSample]:
    """``count`` samples that are not held out."""
    rng = random.Random(seed)
    while count:
        sample = draw(rng)
        if not sample.held_out:
            count -= 1
            yield sample


def held_out_samples(seed: int, count: int) -> list[WorldSample]:
    """``count`` distinct held-out conversations (plain text has several correct continuations)."""
    rng = random.Random(seed)
    found: dict[str, WorldSample] = {}
    while len(found) < count:
        sample = draw(rng)
        if sample.held_out and not sample.text:
            found.setdefault(str(sample.messages[:-1]), sample)
    return list(found.values())
