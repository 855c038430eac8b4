"""One line of the check-list, and the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adapters.training.data.chat_template import Sample


class Level(StrEnum):
    """How a line of the list ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the list."""

    section: str
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The list, the figures behind it, and samples to look at."""

    findings: list[Finding]
    figures: dict[str, Any]
    examples: list[Sample]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(f.level is not Level.FAIL for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        rows = [{"section": f.section, "level": f.level.value, "text": f.text} for f in self.findings]
        return {"passed": self.passed, "figures": self.figures, "findings": rows}


def teller(section: str) -> Callable[..., Finding]:
    """Makes the findings of one section: good ones are ok, others as bad as ``worst`` says."""

    def tell(good: bool, text: str, details: Sequence[str] = (), *, worst: Level = Level.FAIL) -> Finding:
        shown = "".join(f"\n  {detail}" for detail in details[:5])
        more = f"\n  and {len(details) - 5} more" if len(details) > 5 else ""
        return Finding(section, Level.OK if good else worst, text if good else text + shown + more)

    return tell
