"""How long a step of the engine lasts by the sequences in it, learned from the steps that it computes."""

from __future__ import annotations

from typing import Final

#: Weight of a new step in the mean. A step that was shorter is believed sooner: other programs make steps longer.
_SHORTER, _LONGER = 0.3, 0.05
#: A step counts as at most so many times the mean; the first ones compile.
_OUTLIER: Final = 3.0


class StepTimes:
    """Mean seconds of a decoding step, for step sizes between two powers of 2."""

    __slots__ = ("_mean_rows", "_mean_s")

    def __init__(self) -> None:
        self._mean_rows: dict[int, float] = {}  # by the bits of the number of sequences
        self._mean_s: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """A step with so many sequences, none of them with prompt tokens, lasted so long."""
        size = rows.bit_length()
        mean_s = self._mean_s.get(size)
        if mean_s is None:
            self._mean_rows[size], self._mean_s[size] = rows, seconds
            return
        weight = _SHORTER if seconds < mean_s else _LONGER
        self._mean_rows[size] += weight * (rows - self._mean_rows[size])
        self._mean_s[size] += weight * (min(seconds, _OUTLIER * mean_s) - mean_s)

    def expected_s(self, rows: int) -> float | None:
        """Seconds of a step with so many sequences; None before the first step.

        Between two known sizes it is interpolated. Outside of them it is in proportion for a smaller step, which is
        less than it will be, and that of the largest for a larger one: such a step is then tried and measured.
        """
        points = self._points()
        if not points:
            return None
        below = (0.0, 0.0)
        for point in points:
            if rows <= point[0]:
                part = (rows - below[0]) / (point[0] - below[0])
                return below[1] + part * (point[1] - below[1])
            below = point
        return below[1]

    def rows_within(self, seconds: float, most: int) -> int:
        """The largest step, of at most `most` sequences, that is expected to last at most so long; at least 1."""
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            if (self.expected_s(middle) or 0.0) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _points(self) -> list[tuple[float, float]]:
        """Sequences and seconds of the known sizes; a larger step lasts no shorter than a smaller one."""
        points: list[tuple[float, float]] = []
        longest_s = 0.0
        for size in sorted(self._mean_s):
            longest_s = max(longest_s, self._mean_s[size])
            points.append((self._mean_rows[size], longest_s))
        return points
