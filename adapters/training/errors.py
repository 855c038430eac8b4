"""Errors of the trainer."""

from __future__ import annotations


class TrainingError(Exception):
    """The training cannot continue."""


class DataError(TrainingError):
    """A line of the training data cannot be used; the message names the line and the field."""


class BaseModelError(TrainingError):
    """The base model's folder cannot be trained on."""


class TemplateError(TrainingError):
    """The base's chat template does not allow an exact mask of the trained tokens."""


class UnservableError(TrainingError):
    """The server could not serve such an adapter correctly."""


class HardwareError(TrainingError):
    """The training needs hardware, memory or a package that this machine does not have."""


class CheckpointError(TrainingError):
    """The training cannot resume from the checkpoint."""


class OutputError(TrainingError):
    """The output folder cannot be used."""


class DivergedError(TrainingError):
    """The gradient is not finite."""


class MissingPackage(TrainingError):
    """An optional package is not installed; the message says how to install it."""


class IntegrationError(TrainingError):
    """A tracker or judge that was asked for is not available."""


class MergeError(TrainingError):
    """Base and adapter cannot be merged into one model."""
