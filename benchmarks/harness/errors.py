"""The errors that end a benchmark; `benchmarks.__main__` prints them and returns their exit codes."""

from __future__ import annotations


class BenchmarkFailed(RuntimeError):
    """A benchmark has no result (exit code 1); the message has the cause."""


class InvalidOption(ValueError):
    """A command-line option is invalid (exit code 2); the message names the option and the values it accepts."""
