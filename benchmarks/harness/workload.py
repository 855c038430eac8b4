"""Which requests are sent and when. The same seed gives the same requests on any machine.

Request n depends on the seed and on n only, so that two servers see the same requests even if one is faster.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.errors import InvalidOption

#: Prompts consist of common words, so that any tokenizer needs about the same number of tokens per word.
_TEXT = (
    "the a fox river table green walk small king letter open bread winter city under light seven music train "
    "paper house garden blue stone water night morning friend road glass bird old tree story red summer door "
    "window apple horse long field cloud quiet sea market gold village hand market rain song early kitchen "
    "shadow little bridge north island spoon clock lamp mountain write bright"
)
WORDS = tuple(_TEXT.split())
_LOGNORMAL_SIGMA = 0.6
_MAX_OVER_MEAN = 8  # the tail of a lognormal distribution must not exceed the context


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests are sent: `poisson` or `constant` at a rate (open loop), or by a number of `clients`."""

    kind: str
    value: float

    @property
    def clients(self) -> int | None:
        """Number of clients of a closed loop; None for an open loop."""
        return int(self.value) if self.kind == "clients" else None

    def times_s(self, seed: int) -> Iterator[float]:
        """Endless due times of an open loop, in seconds from its start."""
        rng = random.Random(f"arrivals:{seed}")
        at_s = 0.0
        while True:
            at_s += rng.expovariate(self.value) if self.kind == "poisson" else 1 / self.value
            yield at_s


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens: `fixed`, or `lognormal` around a mean and at most 8 times the mean."""

    kind: str
    mean: float

    def draw(self, rng: random.Random) -> int:
        """One length, at least 1."""
        if self.kind == "fixed":
            return int(self.mean)
        log_mean = math.log(self.mean) - _LOGNORMAL_SIGMA**2 / 2
        drawn = rng.lognormvariate(log_mean, _LOGNORMAL_SIGMA)
        return max(1, min(round(drawn), int(self.mean * _MAX_OVER_MEAN)))


@dataclass(frozen=True, slots=True)
class Popularity:
    """How requests spread over a tenant's adapters: Zipf's law, first in the list most; exponent 0 is uniform."""

    exponent: float = 0.0

    def draw(self, models: Sequence[str], rng: random.Random) -> str:
        """One of the models."""
        weights = [(place + 1) ** -self.exponent for place in range(len(models))]
        return rng.choices(models, weights)[0]


@dataclass(frozen=True, slots=True)
class Request:
    """One request to send."""

    number: int
    tenant: str
    model: str
    prompt: str
    output_tokens: int
    blend: tuple[tuple[str, float], ...] = ()
    """Names and scales of the adapters that answer together; none: the model's own."""


@dataclass(frozen=True, slots=True)
class WordCost:
    """Tokens of a prompt on the server: `template_tokens + tokens_per_word * words`."""

    tokens_per_word: float = 1.0
    template_tokens: float = 0.0

    def words_for(self, tokens: int) -> int:
        """The number of words whose prompt has nearest to `tokens` tokens; at least one."""
        return max(1, round((tokens - self.template_tokens) / self.tokens_per_word))


@dataclass(frozen=True, slots=True)
class Workload:
    """A seeded, endless sequence of requests.

    Args:
        tenants: tenant → share of the requests, in any unit.
        models: tenant → the model names that it calls, most popular first.
        popularity: how the requests of a tenant spread over its models.
        prompt_tokens: lengths of prompts, chat template included.
        output_tokens: lengths of answers.
        word_cost: tokens per word on the server.
        seed: determines every request.
    """

    tenants: Mapping[str, float]
    models: Mapping[str, Sequence[str]]
    popularity: Popularity
    prompt_tokens: Lengths
    output_tokens: Lengths
    word_cost: WordCost = WordCost()
    seed: int = 0

    def requests(self) -> Iterator[Request]:
        """Requests 0, 1, 2 …"""
        return map(self.request, itertools.count())

    def request(self, number: int) -> Request:
        """Request `number`. Each prompt starts differently, so that no prefix cache holds it."""
        rng = random.Random(f"{self.seed}:{number}")
        tenant = rng.choices(list(self.tenants), list(self.tenants.values()))[0]
        model = self.popularity.draw(self.models[tenant], rng)
        words = self.word_cost.words_for(self.prompt_tokens.draw(rng))
        output_tokens = self.output_tokens.draw(rng)
        return Request(number, tenant, model, random_words(rng, words), output_tokens)


def random_words(rng: random.Random, words: int) -> str:
    """A text of `words` random words."""
    return " ".join(rng.choices(WORDS, k=words))


def parse_arrivals(text: str) -> Arrivals:
    """Parse `poisson:4` and `constant:4` (per second) or `clients:16` (closed loop). Raises: InvalidOption."""
    expected = "poisson:RATE, constant:RATE or clients:N"
    kind, value = _pair(text, "--arrivals", expected)
    if kind not in ("poisson", "constant", "clients"):
        raise InvalidOption(f"--arrivals {text}: use {expected}.")
    if kind == "clients" and value != int(value):
        raise InvalidOption(f"--arrivals {text}: the number of clients must be a whole number.")
    return Arrivals(kind, value)


def parse_lengths(text: str, flag: str) -> Lengths:
    """Parse `128`, `fixed:128` or `lognormal:MEAN`. Raises: InvalidOption."""
    expected = "N, fixed:N or lognormal:MEAN"
    kind, value = _pair(text if ":" in text else f"fixed:{text}", flag, expected)
    if kind not in ("fixed", "lognormal") or value < 1:
        raise InvalidOption(f"{flag} {text}: use {expected}, with at least 1 token.")
    return Lengths(kind, value)


def parse_shares(text: str) -> dict[str, float]:
    """Parse `acme:8,globex:2`; a name without a share has 1. Raises: InvalidOption."""
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, value = _pair(part if ":" in part else f"{part}:1", "--tenants", "NAME:SHARE,NAME:SHARE")
        shares[name] = value
    if not shares:
        raise InvalidOption("--tenants is empty: use NAME:SHARE,NAME:SHARE.")
    return shares


def parse_popularity(text: str) -> Popularity | tuple[str, ...]:
    """Parse `zipf:1.1` or `uniform` (over the adapters that the server lists), or names of models.

    Raises:
        InvalidOption: the text is none of these.
    """
    if text == "uniform":
        return Popularity()
    if text.startswith("zipf:"):
        return Popularity(_pair(text, "--adapters", "zipf:EXPONENT")[1])
    names = tuple(filter(None, text.split(",")))
    if not names or ":" in text:
        raise InvalidOption(f"--adapters {text}: use zipf:EXPONENT, uniform, base or names of models.")
    return names


def _pair(text: str, flag: str, expected: str) -> tuple[str, float]:
    name, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError as error:
        raise InvalidOption(f"{flag} {text}: use {expected}.") from error
    if not name or not math.isfinite(value) or value <= 0:
        raise InvalidOption(f"{flag} {text}: use {expected}, with a number above 0.")
    return name, value
