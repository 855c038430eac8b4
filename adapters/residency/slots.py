"""The slots of the engine, the tickets of those who wait for one, and what is told of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum

from adapters.errors import AdapterError
from adapters.models import EngineAdapter


class Phase(StrEnum):
    """What the engine is doing with a slot's adapter."""

    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"
    STUCK = "stuck"  # the engine did not confirm the unload: the slot counts as taken until it does


@dataclass(slots=True, eq=False)
class Slot:
    """One adapter in the engine. `loaded` resolves when its present load ends; `gone` when it is out."""

    adapter: EngineAdapter
    phase: Phase
    loaded: asyncio.Future[None]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    holders: int = 0
    yielding: bool = False  # takes no new holds while somebody waits for its place
    retiring: bool = False  # takes no new holds, ever
    dismissed: bool = False  # leaves after a moment without holders
    used_at_s: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes new holds."""
        return self.phase in (Phase.LOADING, Phase.RESIDENT) and not (self.yielding or self.retiring)

    @property
    def is_leaving(self) -> bool:
        """Whether its place becomes free without further ado."""
        return self.phase is Phase.UNLOADING or self.yielding or self.retiring


@dataclass(slots=True, eq=False)
class Ticket:
    """Somebody's place in the queue. `slot` is held for them from the moment it is set."""

    adapter: EngineAdapter
    granted: asyncio.Future[Slot]
    slot: Slot | None = None

    def grant(self, slot: Slot) -> None:
        """Hand over a slot that is held already."""
        self.slot = slot
        self.granted.set_result(slot)

    def refuse(self, error: AdapterError) -> None:
        """Let the waiter fail."""
        self.granted.set_exception(error)
        self.granted.exception()  # seen: the waiter may have been cancelled by now


@dataclass(slots=True)
class ResidencyCounts:
    """What happened since the start."""

    loads: int = 0
    load_failures: int = 0
    load_s: float = 0.0
    unloads: int = 0
    unload_failures: int = 0
    evictions: int = 0
    waits: int = 0
    busy: int = 0
    orphans: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot as metrics and the admin API show it."""

    engine_id: int
    engine_name: str
    phase: Phase
    holders: int
    pinned: bool
    idle_s: float


def view_slot(slot: Slot, pinned: bool) -> SlotView:
    """A slot at this moment."""
    idle_s = 0.0 if slot.holders else time.monotonic() - slot.used_at_s
    return SlotView(
        slot.adapter.engine_id, slot.adapter.engine_name, slot.phase, slot.holders, pinned, idle_s
    )


@dataclass(frozen=True, slots=True)
class ResidencySnapshot:
    """The state at one moment."""

    capacity: int
    waiting: int
    slots: tuple[SlotView, ...]
    counts: ResidencyCounts


@dataclass(frozen=True, slots=True)
class Drift:
    """How the engine differed from what we thought: ids it should not have had, and ids it had lost."""

    orphans: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    stuck: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.orphans or self.missing or self.stuck)
