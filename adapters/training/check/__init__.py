"""`loragate train --check`: checks a data file before any time is spent on a training.

It needs neither torch nor the base's weights. ``scan`` reads the files, ``validators`` makes the findings and
``render`` prints them.
"""

from __future__ import annotations

from typing import Any

from adapters.training.check.findings import CheckReport, Finding, Level
from adapters.training.check.scan import DatasetScan, scan_dataset, split_chats
from adapters.training.check.validators import (
    validate_data,
    validate_end_token,
    validate_evaluation,
    validate_format,
    validate_masking,
)
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer, Sample

__all__ = ["CheckReport", "Finding", "Level", "check"]


def check(config: TrainingConfig, renderer: Renderer) -> CheckReport:
    """Check ``config.data`` (and ``config.held_out``) in the same way as a training reads them.

    Raises:
        DataError: a file is missing, empty or not text. Lines that cannot be used are findings.
        TemplateError: the end token is not a single token of the base.
    """
    scan = scan_dataset(config, renderer)
    train, held_out, broken_held_out = split_chats(config, scan.chats)
    figures: dict[str, Any] = {}
    findings = [
        *validate_data(scan, config, figures),
        *validate_format(scan, renderer, figures),
        *validate_masking(scan, figures),
        *validate_end_token(scan, config, renderer, figures),
        *validate_evaluation(train, held_out, broken_held_out, figures),
    ]
    return CheckReport(findings, figures, _examples(scan))


def _examples(scan: DatasetScan) -> list[Sample]:
    """Three example samples: a short one, one of medium length, a long one."""
    by_length = sorted(scan.samples, key=lambda s: len(s.ids))
    if len(by_length) <= 3:
        return by_length
    return [by_length[int(len(by_length) * share)] for share in (0.1, 0.5, 0.9)]
