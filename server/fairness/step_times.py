"""How long a step of the engine lasts by the sequences in it, learned from the steps that it computes."""

from __future__ import annotations

import math
from typing import Final

#: Weight of a new step in the mean. A step that was shorter is believed sooner: other programs make steps longer.
_SHORTER, _LONGER = 0.3, 0.05
#: A step counts as at most so many times the mean; the first ones compile.
_OUTLIER: Final = 3.0
#: A size without a step for so long is forgotten. Else one that once was slow would never be tried again.
_KNOWN_S: Final = 60.0
#: A line is drawn through sizes that differ so much: else small differences in time would make it steep.
_APART: Final = 1.2


class StepTimes:
    """Mean seconds of a decoding step, for step sizes between two powers of the square root of 2."""

    __slots__ = ("_mean_rows", "_mean_s", "_noted_s", "_points")

    def __init__(self) -> None:
        self._mean_rows: dict[int, float] = {}  # by twice the logarithm of the number of sequences
        self._mean_s: dict[int, float] = {}
        self._noted_s: dict[int, float] = {}
        self._points: list[tuple[float, float]] = []

    def note(self, rows: int, seconds: float, now_s: float) -> None:
        """A step with so many sequences, none of them with prompt tokens, lasted so long, until now."""
        size = int(2 * math.log2(rows))
        self._noted_s[size] = now_s
        for other in [each for each, noted_s in self._noted_s.items() if now_s - noted_s > _KNOWN_S]:
            del self._noted_s[other], self._mean_s[other], self._mean_rows[other]
        mean_s = self._mean_s.setdefault(size, seconds)
        mean_rows = self._mean_rows.setdefault(size, rows)
        weight = _SHORTER if seconds < mean_s else _LONGER
        self._mean_rows[size] += weight * (rows - mean_rows)
        self._mean_s[size] += weight * (min(seconds, _OUTLIER * mean_s) - mean_s)
        self._points = self._monotone()

    def expected_s(self, rows: int) -> float | None:
        """Seconds of a step with so many sequences; None before the first step.

        Between two known sizes it is interpolated. A larger step than known is expected to last as the largest: it is
        then tried and measured. A smaller one is on the line through the smallest and the next, and in proportion
        while one size is known, which is less than it will be.
        """
        points = self._points
        if not points:
            return None
        if rows < points[0][0]:
            in_proportion = points[0][1] * rows / points[0][0]
            other = next((point for point in points if point[0] >= _APART * points[0][0]), None)
            return max(in_proportion, _on_line(points[0], other, rows)) if other else in_proportion
        below = points[0]
        for point in points[1:]:
            if rows <= point[0]:
                return _on_line(below, point, rows)
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

    def _monotone(self) -> list[tuple[float, float]]:
        """Sequences and seconds of the known sizes; a larger step lasts no shorter than a smaller one."""
        points: list[tuple[float, float]] = []
        longest_s = 0.0
        for size in sorted(self._mean_s):
            longest_s = max(longest_s, self._mean_s[size])
            points.append((self._mean_rows[size], longest_s))
        return points


def _on_line(first: tuple[float, float], second: tuple[float, float], rows: int) -> float:
    """Seconds of a step with so many sequences, on the line through two points of sequences and seconds."""
    part = (rows - first[0]) / (second[0] - first[0])
    return first[1] + part * (second[1] - first[1])
