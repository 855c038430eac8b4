"""The engine's slots, the holds that wait for one, and their snapshots."""

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
    STUCK = "stuck"  # the engine has not confirmed the unload; the slot counts as taken until it does


@dataclass(slots=True, eq=False)
class Slot:
    """One adapter in the engine. `loaded` resolves when its present load ends, `gone` is set when it is unloaded."""

    adapter: EngineAdapter
    phase: Phase
    loaded: asyncio.Future[None]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    holders: int = 0
    yielding: bool = False  # takes no new holds while a request waits for its slot
    retiring: bool = False  # never takes new holds
    dismissed: bool = False  # is unloaded after a moment without holders
    used_at_s: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes new holds."""
        return self.phase in (Phase.LOADING, Phase.RESIDENT) and not (self.yielding or self.retiring)

    @property
    def is_leaving(self) -> bool:
        """Whether the slot becomes free by itself."""
        return self.phase is Phase.UNLOADING or self.yielding or self.retiring


@dataclass(slots=True, eq=False)
class PendingHold:
    """A request's place in the queue. `slot` is held for it from the moment it is set."""

    adapter: EngineAdapter
    granted: asyncio.Future[Slot]
    slot: Slot | None = None

    def grant(self, slot: Slot) -> None:
        """Pass on a slot that is already held for this request."""
        self.slot = slot
        self.granted.set_result(slot)

    def refuse(self, error: AdapterError) -> None:
        """Let the waiting request fail."""
        self.granted.set_exception(error)
        self.granted.exception()  # marks it as retrieved: the request may be cancelled by now


@dataclass(slots=True)
class ResidencyCounts:
    """Counts since the start."""

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
    """A slot, for metrics and the admin API."""

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
    waiting_for: tuple[str, ...]  # the engine name of each request's adapter that waits for a slot
    slots: tuple[SlotView, ...]
    counts: ResidencyCounts

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self.waiting_for)


@dataclass(frozen=True, slots=True)
class Drift:
    """Differences between the engine and the table of slots, by engine id.

    `orphans` were unknown to the table, `missing` were lost by the engine, `stuck` had no confirmed unload.
    """

    orphans: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    stuck: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.orphans or self.missing or self.stuck)
