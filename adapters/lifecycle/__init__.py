"""The life of an adapter: adding, promotion, traffic splits, rollback, pins, removal, and recovery after a restart.

`adapters.registry.state_machine.TRANSITIONS` has the legal changes of state. Every step is written to the registry
before the next one begins, so a process that dies at any point leaves no half-made version that looks whole.
"""

from __future__ import annotations

from adapters.lifecycle.adding import Rules
from adapters.lifecycle.drift_log import DriftKind
from adapters.lifecycle.lifecycle import Lifecycle

__all__ = ["DriftKind", "Lifecycle", "Rules"]
