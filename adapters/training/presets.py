"""Starting points for rank, alpha and learning rate."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """A starting point for rank, alpha and learning rate."""

    rank: int
    alpha: int
    learning_rate: float
    why: str

    def values(self) -> dict[str, int | float]:
        """The fields of `TrainingConfig` that it sets."""
        return {"rank": self.rank, "alpha": self.alpha, "learning_rate": self.learning_rate}

    @property
    def summary(self) -> str:
        """One clause for the help text."""
        return f"rank {self.rank}, alpha {self.alpha}, {self.learning_rate:g} ({self.why})"


PRESETS = {
    "conservative": Preset(16, 16, 2e-4, "for little data; stays close to the base"),
    "capacity": Preset(32, 32, 2e-4, "for much or varied data"),
    "aggressive": Preset(16, 32, 2e-4, "for a style or format that must replace the base's"),
}
