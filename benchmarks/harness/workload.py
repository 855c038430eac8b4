"""What is sent and when, drawn from a seed: the same seed gives the same requests, on any machine.

Request n depends on the seed and on n alone, so that two servers see the same ones even when one is faster.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: What prompts are made of: common words, so that any tokenizer needs about the same number of tokens per word.
_TEXT = (
    "the a fox river table green walk small king letter open bread winter city under light seven music train "
    "paper house garden blue stone water night morning friend road glass bird old tree story red summer door "
    "window apple horse long field cloud quiet sea market gold village hand market rain song early kitchen "
    "shadow little bridge north island spoon clock lamp mountain write bright"
)
WORDS = tuple(_TEXT.split())
_LOGNORMAL_SIGMA = 0.6
_LONGEST = 8  # times the mean: the tail of a lognormal must not exceed a context


class BadWorkload(ValueError):
    """A workload option that cannot be read; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests come: `poisson` or `constant` at a rate (open loop), or from a number of `clients`."""

    kind: str
    value: float

    @property
    def clients(self) -> int | None:
        """Number of clients of a closed loop; None for an open one."""
        return int(self.value) if self.kind == "clients" else None

    def times_s(self, seed: int) -> Iterator[float]:
        """Due times of an open loop, in seconds from its start, without an end."""
        chance = random.Random(f"arrivals:{seed}")
        at_s = 0.0
        while True:
            at_s += chance.expovariate(self.value) if self.kind == "poisson" else 1 / self.value
            yield at_s


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens: `fixed` or `lognormal` around a mean, at most 8 times that."""

    kind: str
    mean: float

    def draw(self, chance: random.Random) -> int:
        """One length, at least 1."""
        if self.kind == "fixed":
            return int(self.mean)
        location = math.log(self.mean) - _LOGNORMAL_SIGMA**2 / 2
        drawn = chance.lognormvariate(location, _LOGNORMAL_SIGMA)
        return max(1, min(round(drawn), int(self.mean * _LONGEST)))


@dataclass(frozen=True, slots=True)
class Popularity:
    """Which of a tenant's adapters: `zipf` with an exponent by place in the list, or `uniform`."""

    kind: str
    exponent: float = 0.0

    def draw(self, models: Sequence[str], chance: random.Random) -> str:
        """One of the models."""
        weights = [(place + 1) ** -self.exponent for place in range(len(models))]
        return chance.choices(models, weights)[0]


@dataclass(frozen=True, slots=True)
class Request:
    """One request to send: `prompt_words` is in words, since only the server knows its tokenizer."""

    number: int
    tenant: str
    model: str
    prompt: str
    prompt_words: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class WordRate:
    """What the server's tokenizer makes of a prompt: `tokens = overhead + per_word * words`."""

    per_word: float = 1.0
    overhead: float = 0.0

    def words(self, tokens: int) -> int:
        """The number of words whose prompt comes nearest to so many tokens; at least one."""
        return max(1, round((tokens - self.overhead) / self.per_word))


@dataclass(frozen=True, slots=True)
class Workload:
    """A seeded, endless sequence of requests.

    Args:
        tenants: tenant → share of the requests, in any unit.
        models: tenant → the model names it calls, most popular first.
        popularity: how a tenant's requests spread over its models.
        prompt_tokens: lengths of prompts, chat template included.
        output_tokens: lengths of answers.
        rate: what a word costs on the server.
        seed: everything follows from it.
    """

    tenants: Mapping[str, float]
    models: Mapping[str, Sequence[str]]
    popularity: Popularity
    prompt_tokens: Lengths
    output_tokens: Lengths
    rate: WordRate = WordRate()
    seed: int = 0

    def requests(self) -> Iterator[Request]:
        """Requests 0, 1, 2 …"""
        return map(self.request, itertools.count())

    def request(self, number: int) -> Request:
        """Request `number`; its prompt starts like no other's, so that no prefix cache has it."""
        chance = random.Random(f"{self.seed}:{number}")
        tenant = chance.choices(list(self.tenants), list(self.tenants.values()))[0]
        model = self.popularity.draw(self.models[tenant], chance)
        words = self.rate.words(self.prompt_tokens.draw(chance))
        output_tokens = self.output_tokens.draw(chance)
        return Request(number, tenant, model, sentence(chance, words), words, output_tokens)


def sentence(chance: random.Random, words: int) -> str:
    """So many random words."""
    return " ".join(chance.choices(WORDS, k=words))


def parse_arrivals(text: str) -> Arrivals:
    """`poisson:4` and `constant:4` per second, `clients:16` in a closed loop. Raises: BadWorkload."""
    kind, value = _pair(text, "--arrivals", "poisson:RATE, constant:RATE or clients:N")
    if kind not in ("poisson", "constant", "clients"):
        raise BadWorkload(f"--arrivals {text}: use poisson:RATE, constant:RATE or clients:N")
    if kind == "clients" and value != int(value):
        raise BadWorkload(f"--arrivals {text}: the number of clients is a whole number")
    return Arrivals(kind, value)


def parse_lengths(text: str, flag: str) -> Lengths:
    """`128` or `fixed:128`, or `lognormal:MEAN`. Raises: BadWorkload."""
    expected = "N, fixed:N or lognormal:MEAN"
    kind, value = _pair(text if ":" in text else f"fixed:{text}", flag, expected)
    if kind not in ("fixed", "lognormal") or value < 1:
        raise BadWorkload(f"{flag} {text}: use {expected}, at least 1 token")
    return Lengths(kind, value)


def parse_shares(text: str) -> dict[str, float]:
    """`acme:8,globex:2` → shares; a bare name counts 1. Raises: BadWorkload."""
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, value = _pair(part if ":" in part else f"{part}:1", "--tenants", "NAME:SHARE,NAME:SHARE")
        shares[name] = value
    if not shares:
        raise BadWorkload("--tenants is empty; use NAME:SHARE,NAME:SHARE")
    return shares


def parse_popularity(text: str) -> Popularity | tuple[str, ...]:
    """`zipf:1.1` or `uniform` over what the server lists, or model names: `acme-support,globex-tools`.

    Raises:
        BadWorkload: neither.
    """
    if text == "uniform":
        return Popularity("uniform")
    if text.startswith("zipf:"):
        return Popularity("zipf", _pair(text, "--adapters", "zipf:EXPONENT")[1])
    names = tuple(filter(None, text.split(",")))
    if not names or ":" in text:
        raise BadWorkload(f"--adapters {text}: use zipf:EXPONENT, uniform, base or names of models")
    return names


def _pair(text: str, flag: str, expected: str) -> tuple[str, float]:
    name, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError as error:
        raise BadWorkload(f"{flag} {text}: use {expected}") from error
    if not name or not math.isfinite(value) or value <= 0:
        raise BadWorkload(f"{flag} {text}: use {expected}, above 0")
    return name, value
