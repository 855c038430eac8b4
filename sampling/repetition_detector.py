"""Detects repetition loops in an answer, and computes how far to adjust penalty and temperature.

`RepetitionDetector` reads the tokens of one answer and measures how close it is to a loop; `Adjustment` defines how
far repetition penalty and temperature rise meanwhile. An answer that requests neither has no cost.

Differences to vLLM's `repetition_detection` (`vllm.v1.core.sched.utils.check_sequence_repetition`):
- vLLM's ends an answer whose tail is `min_count` exact copies of one pattern in a row. It is exact and runs in the
  scheduler: use it to stop exact loops. A counter, a name or a date in each copy hides the loop from it.
- Ours measures the share of repeated n-grams in a sliding window (seq-rep-n of Welleck et al. 2019, "Neural
  Text Generation with Unlikelihood Training") and counts repeated lines with other lines between them. So it
  detects loops with variations, and detects them early: the measure rises and falls, which suits steering.
- vLLM's tries every pattern size at every token; ours does a constant amount of work per token.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from sampling.errors import InvalidRepetitionPolicy

Verdict = Literal["ngrams", "lines"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When an answer counts as looping.

    Raises:
        InvalidRepetitionPolicy: a threshold is out of its range.
    """

    ngram_tokens: int = 4
    """Length of the n-grams that are compared."""
    window_tokens: int = 128
    """Size of the window in tokens; a shorter answer never counts as looping."""
    share: float = 0.62
    """An answer loops when this share of the window's n-grams are repeats, in (0, 1)."""
    window_lines: int = 16
    """Size of the window in lines."""
    line_copies: int = 5
    """An answer loops when one line occurs this often in that window."""
    least_line_tokens: int = 4
    """Shorter lines are ignored: a single bracket per line is frequent in correct code."""

    def __post_init__(self) -> None:
        _require(self.ngram_tokens >= 1, f"ngram_tokens must be at least 1, got {self.ngram_tokens}.")
        _require(
            self.window_tokens > self.ngram_tokens,
            f"window_tokens must be above ngram_tokens={self.ngram_tokens}, got {self.window_tokens}.",
        )
        _require(0 < self.share < 1, f"share must be between 0 and 1, got {self.share}.")
        _require(self.line_copies >= 2, f"line_copies must be at least 2, got {self.line_copies}.")
        _require(
            self.window_lines >= self.line_copies,
            f"window_lines must be at least line_copies={self.line_copies}, got {self.window_lines}.",
        )


class _Window:
    """The last `size` items and how often each occurs among them; O(1) per item."""

    __slots__ = ("counts", "items", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: deque[Hashable] = deque()
        self.counts: Counter[Hashable] = Counter()

    def push(self, item: Hashable) -> None:
        self.items.append(item)
        self.counts[item] += 1
        if len(self.items) > self.size:
            gone = self.items.popleft()
            self.counts[gone] -= 1
            if not self.counts[gone]:
                del self.counts[gone]


class RepetitionDetector:
    """Reads one answer token by token and keeps at most one window. Each answer needs its own detector.

    `newline_ids` are the tokens whose text ends with a line break; without them lines are ignored.
    """

    def __init__(self, thresholds: Thresholds, newline_ids: frozenset[int] = frozenset()) -> None:
        self.thresholds = thresholds
        self._newline_ids = newline_ids
        self._tail: deque[int] = deque(maxlen=thresholds.ngram_tokens)
        self._grams = _Window(thresholds.window_tokens - thresholds.ngram_tokens + 1)
        self._lines = _Window(thresholds.window_lines)
        self._line = 0
        self._line_tokens = 0
        self._line_copies = 0

    def push(self, token_id: int) -> None:
        """Record the answer's next token."""
        self._tail.append(token_id)
        if len(self._tail) == self.thresholds.ngram_tokens:
            self._grams.push(tuple(self._tail))
        if not self._newline_ids:
            return
        self._line = hash((self._line, token_id))
        self._line_tokens += 1
        if token_id in self._newline_ids:
            self._end_line()
        elif self._line_tokens == self.thresholds.window_tokens:
            self._line_copies = 0  # The lines before this very long one are outside the window.

    def _end_line(self) -> None:
        is_counted = self._line_tokens >= self.thresholds.least_line_tokens
        self._lines.push(self._line if is_counted else None)
        self._line_copies = max((n for line, n in self._lines.counts.items() if line is not None), default=0)
        self._line = 0
        self._line_tokens = 0

    @property
    def share(self) -> float:
        """Repeated n-grams in the window, as a share of a full window: 0 … 1."""
        return (len(self._grams.items) - len(self._grams.counts)) / self._grams.size

    @property
    def line_copies(self) -> int:
        """How often the most frequent line occurs in the window of lines."""
        return self._line_copies

    @property
    def closeness(self) -> float:
        """How close the answer is to a loop: 0 means no repetition, 1 means looping."""
        by_lines = max(self._line_copies - 1, 0) / (self.thresholds.line_copies - 1)
        return min(max(self.share / self.thresholds.share, by_lines), 1.0)

    @property
    def verdict(self) -> Verdict | None:
        """The reason why the answer loops now; None when it does not."""
        if self.share >= self.thresholds.share:
            return "ngrams"
        return "lines" if self._line_copies >= self.thresholds.line_copies else None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """How far penalty and temperature may rise, and how fast they return.

    Raises:
        InvalidRepetitionPolicy: a bound is out of its range.
    """

    most_repetition_penalty: float = 1.3
    most_temperature: float = 1.0
    start: float = 0.5
    """The closeness at which they start to rise, in [0, 1); at closeness 1 they reach their bounds."""
    release_tokens: int = 32
    """Number of tokens without repetition after which a full adjustment is back at zero."""

    def __post_init__(self) -> None:
        _require(
            1.0 <= self.most_repetition_penalty <= 2.0,
            f"most_repetition_penalty must be from 1 to 2, got {self.most_repetition_penalty}.",
        )
        _require(
            0 <= self.most_temperature <= 2.0,
            f"most_temperature must be from 0 to 2, got {self.most_temperature}.",
        )
        _require(0 <= self.start < 1, f"start must be at least 0 and below 1, got {self.start}.")
        _require(self.release_tokens >= 1, f"release_tokens must be at least 1, got {self.release_tokens}.")


@dataclass(frozen=True, slots=True)
class SteeredOptions:
    """The two options that are adjusted."""

    repetition_penalty: float
    temperature: float


def next_strength(policy: Adjustment, strength: float, closeness: float) -> float:
    """The strength, 0 … 1, after one more token: it rises at once and falls by 1 / release_tokens per token."""
    wanted = max(closeness - policy.start, 0.0) / (1.0 - policy.start)
    return min(max(wanted, strength - 1.0 / policy.release_tokens, 0.0), 1.0)


def adjust(policy: Adjustment, requested: SteeredOptions, strength: float) -> SteeredOptions:
    """The options for the next token, between the requested values (strength 0) and the bounds (strength 1).

    No value is ever lowered: a requested value above its bound stays. For greedy decoding only the penalty rises,
    because a caller who requests temperature 0 wants no randomness.
    """
    penalty_room = max(policy.most_repetition_penalty - requested.repetition_penalty, 0.0)
    temperature_room = (
        max(policy.most_temperature - requested.temperature, 0.0) if requested.temperature > 0 else 0.0
    )
    return SteeredOptions(
        requested.repetition_penalty + strength * penalty_room,
        requested.temperature + strength * temperature_room,
    )


class RepetitionCount:
    """Reports which answers of one generation reached a given closeness to a loop.

    The engine steers and ends answers in another process and does not report their closeness; the same detector
    computes the same closeness from the same tokens here.
    """

    def __init__(
        self, new_detector: Callable[[], RepetitionDetector], reached: Callable[[RepetitionDetector], bool]
    ) -> None:
        self._new_detector = new_detector
        self._reached = reached
        self._detectors: dict[int, RepetitionDetector | None] = {}

    def push(self, answer: int, token_ids: Sequence[int]) -> bool:
        """Record an answer's new tokens; returns True once per answer, when it reaches the closeness."""
        if answer not in self._detectors:
            self._detectors[answer] = self._new_detector()
        detector = self._detectors[answer]
        if detector is None:
            return False
        for token_id in token_ids:
            detector.push(token_id)
            if self._reached(detector):
                self._detectors[answer] = None
                return True
        return False


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidRepetitionPolicy(problem)
