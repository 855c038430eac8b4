"""The order of the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler

from adapters.training.data.chat_template import Sample


class LongestFirst(Sampler[int]):
    """Random order, but within each optimizer step the longest sample comes first.

    So the samples of one forward pass have similar lengths, and there is little padding. Each step has the same
    samples as without this order, so its gradient is the same except for rounding. transformers' own
    ``group_by_length`` moves samples to other steps.

    Args:
        samples: the samples of one epoch.
        window: samples of one optimizer step.
        seed: the order is that of accelerate's sampler with this seed.
    """

    def __init__(self, samples: Sequence[Sample], window: int, seed: int) -> None:
        self._samples = samples
        self._window = window
        self._random = SeedableRandomSampler(samples, data_seed=seed)

    def __len__(self) -> int:
        return len(self._samples)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each epoch."""
        self._random.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        order = list(self._random)
        for start in range(0, len(order), self._window):
            step = order[start : start + self._window]
            yield from sorted(step, key=lambda at: len(self._samples[at].ids), reverse=True)
