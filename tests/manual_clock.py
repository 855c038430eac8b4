"""A clock that tests set: what counts seconds gets it in place of `time.time` or `time.monotonic`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ManualClock:
    """Returns `now_s`, in seconds."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s
