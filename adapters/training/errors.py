"""Errors of the trainer.

TrainingError
  DataError               a line of the data cannot be used; names file, line and field
  BaseModelError          the base model's folder cannot be trained on
  TemplateError           the base's chat template gives no exact token mask
  UnservableError         the server would refuse, or silently ignore, such an adapter
  HardwareError           hardware, memory or a package is missing
  CheckpointError         a checkpoint is incomplete, or belongs to another configuration
  OutputError             the output folder cannot be used
  DivergedError           the gradient is not finite
  MissingPackage          an optional package is not installed
  IntegrationError        a tracker or judge that was asked for is not available
  MergeError              base and adapter cannot be merged
"""

from __future__ import annotations


class TrainingError(Exception):
    """The training cannot continue."""


class DataError(TrainingError):
    """A line of the training data cannot be used."""


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
