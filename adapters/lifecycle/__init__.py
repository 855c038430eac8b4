"""An adapter's life: added, promoted, split, rolled back, pinned, removed; and what a restart does with it.

`adapters.registry.state_machine.MOVES` is the one table of legal moves. Every step is written to the registry before
the next one begins, so a process that dies at any point leaves nothing that the next one could take for whole.
"""

from __future__ import annotations

from adapters.lifecycle.adding import Rules
from adapters.lifecycle.health import Condition, DriftKind, Health
from adapters.lifecycle.lifecycle import Lifecycle
from adapters.lifecycle.recovery import Recovery
from adapters.registry.state_machine import MOVES

__all__ = ["MOVES", "Condition", "DriftKind", "Health", "Lifecycle", "Recovery", "Rules"]
