"""A bound on how long a cold adapter waits for one of the engine's LoRA slots.

vLLM admits a request only while its adapter is among the `max_loras` that run; under steady load those are
served for ever and a cold one starves. Here a slot goes round: an adapter that has waited for its turn takes
the slot of the one that has run longest, whose requests are preempted and wait for their own turn.
"""

from __future__ import annotations

from collections.abc import Iterable

#: An adapter keeps its slot at least so long, or nobody would get anywhere.
MIN_TENURE_S = 0.1


class AdapterSlots:
    """Which adapters (vLLM's integer ids; 0 is "none") may run now.

    Args:
        slots: the engine's `max_loras`.
        wait_s: the bound. A turn lasts `wait_s / (rounds + 1)`, where `rounds` is how many turns each slot
            must give away before the last of the waiting adapters has had one.
    """

    __slots__ = ("_asked_at", "_blocked_since", "_granted", "_running", "_since", "slots", "wait_s")

    def __init__(self, slots: int, wait_s: float) -> None:
        self.slots = slots
        self.wait_s = wait_s
        self._running: dict[int, int] = {}  # adapter -> running requests
        self._since: dict[int, float] = {}  # adapter -> when its tenure began
        self._granted: set[int] = set()  # adapters that a slot is kept for; none of them runs
        self._blocked_since: dict[int, float] = {}
        self._asked_at = 0.0

    @property
    def full(self) -> bool:
        """Whether an adapter that does not run would have to wait."""
        return len(self._running) + len(self._granted) >= self.slots

    def runs(self, adapter: int) -> bool:
        """Whether a request for this adapter runs; the base model needs no slot and always does."""
        return adapter == 0 or adapter in self._running

    def can_start(self, adapter: int) -> bool:
        """Whether a request for this adapter may start now."""
        return adapter == 0 or adapter in self._running or adapter in self._granted or not self.full

    def start(self, adapter: int, now: float) -> None:
        """A request for this adapter starts."""
        if adapter:
            self._since.setdefault(adapter, now)
            self._running[adapter] = self._running.get(adapter, 0) + 1
            self._granted.discard(adapter)
            self._blocked_since.pop(adapter, None)

    def stop(self, adapter: int) -> None:
        """A request for this adapter ended or was preempted."""
        if adapter:
            self._running[adapter] -= 1
            if not self._running[adapter]:
                del self._running[adapter]
                del self._since[adapter]

    def take_turns(self, wanted: Iterable[int], now: float) -> list[int]:
        """Decide whose turn is over; their running requests must be preempted before the next admission.

        Args:
            wanted: adapters that have a request which could start if a slot were free.
            now: monotonic seconds.
        """
        step_s, self._asked_at = now - self._asked_at, now
        if not wanted and not self._granted:
            self._blocked_since.clear()
            return []
        wanted = set(wanted)
        self._granted &= wanted
        blocked = wanted - self._running.keys() - self._granted
        self._blocked_since = {a: self._blocked_since.get(a, now) for a in sorted(blocked)}
        if not blocked:
            return []
        turn_s = self._turn_s(len(blocked), step_s)
        evicted: list[int] = []
        for adapter in sorted(blocked, key=self._blocked_since.__getitem__):
            if now - self._blocked_since[adapter] < turn_s:
                break
            if len((self._running.keys() - set(evicted)) | self._granted) >= self.slots:
                victim = self._oldest(now - turn_s, besides=evicted)
                if victim is None:
                    break
                evicted.append(victim)
            self._granted.add(adapter)
        return evicted

    def _turn_s(self, blocked: int, step_s: float) -> float:
        """The length of a turn, to the nearest number of steps."""
        turn_s = max(MIN_TENURE_S, self.wait_s / (-(-blocked // self.slots) + 1))
        return turn_s - min(step_s, turn_s) / 2

    def _oldest(self, begun_before: float, besides: list[int]) -> int | None:
        tenures = [
            (since, a) for a, since in self._since.items() if since <= begun_before and a not in besides
        ]
        return min(tenures)[1] if tenures else None
