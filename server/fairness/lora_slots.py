"""Rotation of the engine's LoRA slots, which bounds how long an adapter without a slot waits.

vLLM admits a request only while its adapter is among the `max_loras` that run. Under steady load the running
adapters keep their slots and the others starve. Here an adapter that has waited for one turn takes the slot of the
adapter that has run longest; the requests of that one are preempted and wait for their own turn.
"""

from __future__ import annotations

from collections.abc import Set

#: The shortest time for which an adapter keeps its slot, so that each turn makes progress.
MIN_SLOT_TIME_S = 0.1


class LoraSlots:
    """Which adapters (vLLM's integer ids; 0 is the base model) may run now.

    Args:
        slots: the engine's `max_loras`.
        wait_s: the maximum wait. A turn lasts `wait_s / (rounds + 1)`, where `rounds` is the number of turns
            per slot until the last of the waiting adapters has had one.
    """

    __slots__ = ("_blocked_since", "_granted", "_rotated_at", "_running", "_since", "slots", "wait_s")

    def __init__(self, slots: int, wait_s: float) -> None:
        self.slots = slots
        self.wait_s = wait_s
        self._running: dict[int, int] = {}  # adapter -> running requests
        self._since: dict[int, float] = {}  # adapter -> when it took its slot
        self._granted: set[int] = set()  # adapters with a reserved slot; none of them runs
        self._blocked_since: dict[int, float] = {}
        self._rotated_at = 0.0

    @property
    def full(self) -> bool:
        """Whether all slots are taken, so that an adapter without a slot waits."""
        return len(self._running) + len(self._granted) >= self.slots

    def runs(self, adapter: int) -> bool:
        """Whether a request for this adapter runs; always true for the base model, which needs no slot."""
        return adapter == 0 or adapter in self._running

    def can_start(self, adapter: int) -> bool:
        """Whether a request for this adapter may start now."""
        return self.runs(adapter) or adapter in self._granted or not self.full

    def can_start_all(self, adapters: Set[int]) -> bool:
        """Whether requests for all these adapters may start in one step."""
        blocked = {adapter for adapter in adapters if not self.runs(adapter)} - self._granted
        return len(self._running) + len(self._granted) + len(blocked) <= self.slots

    def start(self, adapter: int, now: float) -> bool:
        """Count a request for this adapter that starts; returns whether it takes a slot."""
        if adapter == 0:
            return False
        if adapter in self._running:
            self._running[adapter] += 1
            return False
        self._running[adapter], self._since[adapter] = 1, now
        self._granted.discard(adapter)
        return True

    def stop(self, adapter: int) -> None:
        """Count a request for this adapter that ended or was preempted."""
        if adapter:
            self._running[adapter] -= 1
            if not self._running[adapter]:
                del self._running[adapter]
                del self._since[adapter]

    def rotate(self, wanted: Set[int], now: float) -> list[int]:
        """Return the adapters whose turn is over; the caller preempts their requests before it starts others.

        Call it in each step, also when nothing is wanted: an adapter that is not wanted waits no longer.

        Args:
            wanted: adapters without a slot that have a request which could start with one.
            now: monotonic seconds.
        """
        step_s, self._rotated_at = now - self._rotated_at, now
        if not wanted and not self._granted:
            self._blocked_since.clear()
            return []
        self._granted &= wanted
        blocked = wanted - self._granted
        self._blocked_since = {a: self._blocked_since.get(a, now) for a in sorted(blocked)}
        if not blocked:
            return []
        turn_s = self._turn_s(len(blocked), step_s)
        evicted: list[int] = []
        for adapter in sorted(blocked, key=self._blocked_since.__getitem__):
            if now - self._blocked_since[adapter] < turn_s:
                break
            if len((self._running.keys() - set(evicted)) | self._granted) >= self.slots:
                victim = self._longest_running(now - turn_s, besides=evicted)
                if victim is None:
                    break
                evicted.append(victim)
            self._granted.add(adapter)
        return evicted

    def _turn_s(self, blocked: int, step_s: float) -> float:
        """The length of a turn, rounded to the nearest number of steps."""
        turn_s = max(MIN_SLOT_TIME_S, self.wait_s / (-(-blocked // self.slots) + 1))
        return turn_s - min(step_s, turn_s) / 2

    def _longest_running(self, before: float, besides: list[int]) -> int | None:
        since = [(since, a) for a, since in self._since.items() if since <= before and a not in besides]
        return min(since)[1] if since else None
