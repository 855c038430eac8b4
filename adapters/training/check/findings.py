"""One line of the data check, and the whole report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adapters.training.data.chat_template import Sample

_DETAILS_SHOWN = 5


class Level(StrEnum):
    """The result of one line."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    section: str
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The findings, the figures behind them, and example samples."""

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


def finding_factory(section: str) -> Callable[..., Finding]:
    """A function that creates the findings of one section; a finding that is not ok gets the level ``worst``."""

    def create(ok: bool, text: str, details: Sequence[str] = (), *, worst: Level = Level.FAIL) -> Finding:
        shown = "".join(f"\n  {detail}" for detail in details[:_DETAILS_SHOWN])
        rest = len(details) - _DETAILS_SHOWN
        more = f"\n  and {rest} more" if rest > 0 else ""
        return Finding(section, Level.OK if ok else worst, text if ok else text + shown + more)

    return create
