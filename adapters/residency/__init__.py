"""Which versions are loaded in the engine, which requests hold them, and which request gets the next slot.

vLLM keeps at most `max_cpu_loras` adapters and evicts the least recently used one itself, held or not. `Residency`
prevents that: it loads at most as many, unloads an unheld one first, and lets further requests wait.
"""

from __future__ import annotations

from adapters.residency.loader import Loader
from adapters.residency.residency import Residency
from adapters.residency.slots import Drift, Phase, ResidencyCounts, ResidencySnapshot, SlotView

__all__ = ["Drift", "Loader", "Phase", "Residency", "ResidencyCounts", "ResidencySnapshot", "SlotView"]
