"""The production check-list: what a training would see in a file, before any time is spent on it.

Nothing here needs torch or the base's weights: ``walk`` (as a training would) -> ``sections`` (findings) ->
``view`` (for people).
"""

from __future__ import annotations

from typing import Any

from adapters.training.check.findings import CheckReport, Finding, Level
from adapters.training.check.validators import (
    data_section,
    end_token_section,
    evaluation_section,
    format_section,
    masking_section,
)
from adapters.training.check.walk import Found, sides, walk
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer, Sample

__all__ = ["CheckReport", "Finding", "Level", "check"]


def check(config: TrainingConfig, renderer: Renderer) -> CheckReport:
    """Walk over ``config.data`` (and ``config.held_out``) as a training would.

    Raises:
        DataError: a file is missing, empty or not text. Lines that cannot be used are findings.
        TemplateError: the end token is not one token of the base.
    """
    found = walk(config, renderer)
    train, held_out, broken_held_out = sides(config, found.chats)
    figures: dict[str, Any] = {}
    findings = [
        *data_section(found, config, figures),
        *format_section(found, renderer, figures),
        *masking_section(found, figures),
        *end_token_section(found, config, renderer, figures),
        *evaluation_section(train, held_out, broken_held_out, figures),
    ]
    return CheckReport(findings, figures, _examples(found))


def _examples(found: Found) -> list[Sample]:
    """Three samples to look at: a short one, one of middling length, a long one."""
    by_length = sorted(found.samples, key=lambda s: len(s.ids))
    if len(by_length) <= 3:
        return by_length
    return [by_length[int(len(by_length) * share)] for share in (0.1, 0.5, 0.9)]
