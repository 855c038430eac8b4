"""Which versions are loaded in the engine, who holds them, and whose turn it is.

vLLM keeps at most `max_cpu_loras` adapters and evicts the least recently used one on its own, held or not.
So we never let it come to that: `Residency` loads at most as many, unloads an unheld one first, and makes
whoever asks for one more wait.
"""

from __future__ import annotations

from adapters.residency.loader import Loader
from adapters.residency.residency import Residency
from adapters.residency.slots import Drift, Phase, ResidencyCounts, ResidencySnapshot, SlotView

__all__ = ["Drift", "Loader", "Phase", "Residency", "ResidencyCounts", "ResidencySnapshot", "SlotView"]
