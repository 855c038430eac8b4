"""`loragate train --check`: checks data files before any time is spent on a training.

It needs neither torch nor the base's weights. ``scan`` reads the files and keeps the ``facts`` of every chat, with
the faults that ``call_faults`` and ``text_faults`` find in it; ``dataset_validation`` and ``repetition`` make the
findings, and ``render`` prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.training.check.dataset_validation import (
    validate_data,
    validate_end_token,
    validate_faults,
    validate_format,
    validate_held_out,
    validate_masking,
)
from adapters.training.check.facts import ChatFacts
from adapters.training.check.findings import CheckReport, Finding, Level
from adapters.training.check.repetition import validate_repetition
from adapters.training.check.scan import DatasetScan, example_samples, scan_files
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer

__all__ = ["CheckReport", "Finding", "Level", "check"]

_SECTIONS = ("data", "format", "calls", "texts", "variety", "masking", "end token", "evaluation")


def check(
    config: TrainingConfig, renderer: Renderer, progress: Callable[[int], None] = lambda rows: None
) -> CheckReport:
    """Check ``config.data`` (and ``config.held_out``) in the same way as a training reads them.

    ``progress`` gets the number of rows read so far. Files of more than 2,000 rows are read by several processes.

    Raises:
        DataError: a file is missing, empty or of another kind. Lines that cannot be used are findings.
        TemplateError: the end token is not a single token of the base.
    """
    scan = scan_files(config.data, config, renderer, progress)
    other = scan_files((config.held_out,), config, renderer) if config.held_out else None
    train, held_out = _split(config, scan)
    if other is not None:
        train, held_out = scan.chats, other.chats
    figures: dict[str, Any] = {}
    findings = [
        *validate_data(scan, config, figures),
        *validate_format(scan, figures),
        *validate_faults(scan, figures),
        *validate_repetition(scan.chats, figures),
        *validate_masking(scan, figures),
        *validate_end_token(scan, config, renderer, figures),
        *validate_held_out(train, held_out, len(other.broken) if other else 0, figures),
    ]
    figures["rows_per_s"] = round(scan.rows / scan.seconds) if scan.seconds else 0
    by_section = {name: [f for f in findings if f.section == name] for name in _SECTIONS}
    ordered = [finding for found in by_section.values() for finding in found]
    return CheckReport(ordered, figures, example_samples(scan, config, renderer))


def _split(config: TrainingConfig, scan: DatasetScan) -> tuple[list[ChatFacts], list[ChatFacts]]:
    """Training and held-out chats, split as in a training."""
    train: list[ChatFacts] = []
    held_out: list[ChatFacts] = []
    for facts in scan.chats:
        (held_out if facts.share < config.held_out_share else train).append(facts)
    return train, held_out
