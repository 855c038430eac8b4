"""Pytest's log capture, with one look at all loggers for a file instead of six for a test.

vLLM, torch and transformers make 1,200 loggers. Pytest (9.2) searches them for those that do not propagate whenever
it installs one of its two handlers, before each of a test's three phases: a millisecond of every test. 80 of those
that do not propagate are torch's: to add the handlers to these would take another.
"""

from __future__ import annotations

import logging
import os
from typing import Any, ClassVar

import _pytest.logging


class LogCapture(_pytest.logging.catching_logs[Any]):
    """Attaches its handler to the root logger and to those that do not propagate, except torch's.

    It looks for them in the first test of a file, and when there are more loggers than before.
    """

    _seen: ClassVar[tuple[str, int]] = ("", 0)
    _apart: ClassVar[list[logging.Logger]] = []

    def __enter__(self) -> Any:
        root = logging.getLogger()
        loggers = root.manager.loggerDict
        # Empty while a test is set up.
        file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0] or LogCapture._seen[0]
        seen = (file, len(loggers))
        if seen != LogCapture._seen:
            LogCapture._seen = seen
            LogCapture._apart = [
                known
                for name, known in loggers.items()
                if not getattr(known, "propagate", True) and not name.startswith("torch.")
            ]
        if self.level is not None:
            self.handler.setLevel(self.level)
            self.orig_level = root.level
            root.setLevel(min(root.level, self.level))
        self.attached_loggers = [root, *LogCapture._apart]
        for logger in self.attached_loggers:
            logger.addHandler(self.handler)
        return self.handler


def install() -> None:
    """Let pytest use it."""
    _pytest.logging.catching_logs = LogCapture
