"""How often an epoch uses each sample: the weights of the data files, and the replayed general chats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from adapters.training.data.chat_template import Sample


@dataclass(frozen=True, slots=True)
class FileShare:
    """What one data file brings to an epoch."""

    path: Path
    weight: float
    chats: int  # trained on, without the held-out ones
    samples: int  # of one epoch, after the weight

    def as_dict(self) -> dict[str, str | int | float]:
        """For ``training.json``."""
        return {"name": self.path.name, "weight": self.weight, "chats": self.chats, "samples": self.samples}


def weighted(samples: Sequence[Sample], weight: float, seed: int) -> list[Sample]:
    """``samples``, each ``weight`` times; of a fraction, as many different ones as it is, drawn by ``seed``."""
    whole = int(weight)
    part = round((weight - whole) * len(samples))
    drawn = random.Random(seed).sample(range(len(samples)), part)
    return [*samples] * whole + [samples[at] for at in sorted(drawn)]


def replayed(samples: Sequence[Sample], wanted: int, seed: int) -> list[Sample]:
    """``wanted`` of ``samples`` in an order drawn by ``seed``; repeated if there are too few."""
    shuffled = list(samples)
    random.Random(seed).shuffle(shuffled)
    return list(islice(cycle(shuffled), wanted))
